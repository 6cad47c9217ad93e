"""One model as one file of PyTorch: layers, training loop and generation, written from the templates beside this file.

    templates/gpt.py.jinja         introduction, imports, settings as constants; it includes the others
    templates/model.py.jinja       the layers and the initialization
    templates/training.py.jinja    optimizer, schedule, batches, training loop
    templates/main.py.jinja        generation, reading of text, command line

The file needs no fledge, loads the weights of a run, and computes the same bits: the tests compare logits, initial
weights and ten training steps of every preset with fledge's own.
"""

import re
import textwrap
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import jinja2

from fledge import __version__
from fledge.core.errors import UserError
from fledge.model.flops import parameter_count
from fledge.model.lora import plain_config
from fledge.runs.run_folder import RunFolder
from fledge.settings.pipeline import validated
from fledge.settings.presets import model_parts
from fledge.training.config import Settings
from fledge.training.ngram_fit import FREQUENT

TEMPLATES = Path(__file__).with_name("templates")
WIDTH = 120


def render_model(name: str, settings: Settings) -> str:
    """The text of the file for a model with this name and these settings."""
    return render(printable_name(name), model_parts(settings.model), settings)


def run_settings(run: RunFolder) -> Settings:
    """The settings of a run, with the vocabulary size of its tokenizer. Adapters are merged."""
    return replace(validated(run.config()), model=plain_config(run.model_config()))


def printable_name(name: str) -> str:
    """The name for the file's docstring, without characters that could end it."""
    return "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in name)[:60]


def render(name: str, parts: list[str], settings: Settings) -> str:
    """The whole file. `parts` says in words what the model is made of."""
    by_epoch = settings.optim.schedule == "epoch_cosine"
    if by_epoch and not settings.train.epochs and not settings.optim.steps_per_epoch:
        raise UserError(
            "optim.schedule = epoch_cosine: how many steps an epoch has is not known without a text",
            "give the length in epochs: --train.epochs 15; or eject a run",
        )
    fit = " Training begins with random weights: the fit to n-gram counts (train.ngram_steps) is left out."
    environment = jinja2.Environment(  # noqa: S701  # it writes Python, not HTML
        loader=jinja2.FunctionLoader(load_template),
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    introduction = (
        f"Parts: {', '.join(parts)}. It loads the weights of a fledge run, model.safetensors. Written by fledge"
        f" {__version__}, under the MIT license. Needs torch, numpy, safetensors and tokenizers."
    )
    return environment.get_template("gpt.py.jinja").render(
        name=name,
        introduction=textwrap.fill(introduction + fit * bool(settings.train.ngram_steps), WIDTH),
        parameters=parameter_count(settings.model),
        model=settings.model,
        optim=settings.optim,
        train=settings.train,
        sequence="TRAIN_CONTEXT" if settings.train.context else "CONTEXT",
        data=settings.data,
        frequent_count=FREQUENT,
    )


def load_template(name: str) -> str:
    """A template in Jinja's syntax. In the files directives are Python comments, so that the code stays readable.

    A line of its own       #: if model.softcap    becomes    {% if model.softcap %}
    After a line of code    #: if model.softcap    the condition of that line alone
    """

    def to_tags(line: re.Match[str]) -> str:
        code, directive = line.groups()
        return f"{{% {directive} %}}" + (f"{code}\n{{% endif %}}" if code else "")

    source = (TEMPLATES / name).read_text(encoding="utf-8")
    return re.sub(r"^(?:(.*\S)  | *)#: (.+)\n", to_tags, source, flags=re.MULTILINE)


def number(value: float | tuple[float, ...]) -> str:
    """A number as a person writes it: 50_257, 6e-4."""
    if isinstance(value, tuple):
        return f"({', '.join(map(number, value))})"
    if abs(value) >= 10_000:
        return f"{value:_}"
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        return f"{Decimal(repr(value)).normalize():e}"
    return repr(value)
