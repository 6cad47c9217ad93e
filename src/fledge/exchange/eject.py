"""One model as one file: the parts it uses, a training loop and a sampler, taken from the sources of fledge itself.

    gather        the program (standalone.py) and all that it needs, in the order in which one reads
    specialise    the choices of this model are made, and what they leave out goes
    finish        settings as plain numbers, imports, a heading for each part

Nothing is written twice: what the file says is what fledge runs. Does not train, and writes no files.
"""

import dataclasses
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from fledge import __version__
from fledge.datasets.config import DataConfig
from fledge.exchange import standalone
from fledge.exchange.rewriting.code import Code
from fledge.exchange.rewriting.gather import MARK, Source, gather
from fledge.exchange.rewriting.knowledge import Knowledge
from fledge.exchange.rewriting.scopes import taken
from fledge.exchange.rewriting.specialise import specialise
from fledge.exchange.rewriting.tidy import WIDTH, import_lines, tidy
from fledge.model.config import ModelConfig
from fledge.model.flops import parameters
from fledge.model.gpt import GPT
from fledge.optim.config import OptimConfig
from fledge.training.config import TrainConfig

ROOT = "main"
SETTINGS = "The settings of this model, and of its training."


@dataclass(frozen=True)
class EjectPlan:
    """What a file is made for: the settings that it needs, and what to say of it."""

    title: str
    parts: str  # what the model is made of, in words
    model: ModelConfig
    optim: OptimConfig
    train: TrainConfig
    data: DataConfig


def eject(plan: EjectPlan) -> str:
    """The whole file."""
    settings = {type(each).__name__: each for each in (plan.model, plan.optim, plan.train, plan.data)}
    sources = gather(standalone, ROOT, leave_out=settings)
    names: dict[str, object] = {name: type(each) for name, each in settings.items()}
    names |= {name: value for source in sources for name, value in source.objects().items()}
    examples = [*settings.values(), *objects_of(plan.model)]
    knowledge = Knowledge(names, examples, facts(plan.model))
    text = "\n\n\n".join([settings_source(settings.values()), *(source.text() for source in sources)])
    return finish(specialise(text, knowledge, ROOT), sources, plan)


def objects_of(config: ModelConfig) -> Iterator[object]:
    """All that such a model consists of; it takes no memory."""
    with torch.device("meta"):
        model = GPT(config)
    yield from model.modules()
    yield from (model.no_cache, *model.no_cache.layers)


def facts(config: ModelConfig) -> dict[str, bool]:
    """What is known of shapes: nothing is cached, so all tokens are new; and heads share keys, or do not."""
    return {"T == S": True, "q.shape[1] != k.shape[1]": config.kv_heads != config.n_head}


def settings_source(settings: Iterable[Any]) -> str:
    """The settings as small dataclasses: what was derived is a plain number, what was a choice has been made."""
    lines = [f"{MARK}settings"]
    for config in settings:
        lines += ["\n\n@dataclass(frozen=True)", f"class {type(config).__name__}:"]
        helps = {field.name: field.metadata["help"] for field in dataclasses.fields(config)}
        helps |= {name: each.__doc__ for name, each in vars(type(config)).items() if isinstance(each, property)}
        for name, help in helps.items():
            value = getattr(config, name)
            if type(value) in (int, float, tuple):
                lines.append(f"    {name}: {kind_of(value)} = {number(value)}  # {help.partition(';')[0]}")
    return "\n".join(lines)


def kind_of(value: object) -> str:
    return f"tuple[{', '.join(map(kind_of, value))}]" if isinstance(value, tuple) else type(value).__name__


def number(value: object) -> str:
    """As a person writes it: 50_257, 6e-4."""
    if isinstance(value, tuple):
        return f"({', '.join(map(number, value))})"
    if isinstance(value, int | float) and abs(value) >= 10_000:
        return f"{value:_}"
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        return f"{Decimal(repr(value)).normalize():e}"
    return repr(value)


def finish(text: str, sources: list[Source], plan: EjectPlan) -> str:
    used = set(taken(Code(text).tree))
    documents = {"settings": SETTINGS} | {source.name: source.module.__doc__ or "" for source in sources}
    dropped = unchosen([plan.model, plan.optim])
    sections = []
    for section in text.split(MARK)[1:]:
        name, _, content = section.partition("\n")
        if content.strip():
            sections.append("\n".join([*heading(documents[name], content, dropped), content.strip()]))
    imports = import_lines(
        each
        for source in sources
        for name, each in source.imports.items()
        if name in used and not each.module.startswith("fledge")
    )
    return tidy("\n\n\n".join([f"{introduction(plan)}\n\n{imports}", *sections, START]))


START = f'if __name__ == "__main__":\n    {ROOT}()\n'


def introduction(plan: EjectPlan) -> str:
    said = (
        f"Its parts: {plan.parts}. It takes the weights of a run of fledge, model.safetensors."
        f" Written by fledge {__version__} from its own sources, and under their licence: MIT."
        " Needs torch, numpy, safetensors and tokenizers."
    )
    return f'''"""{plan.title}: a GPT of {parameters(plan.model):,} parameters, whole in one file.

    python gpt.py train book.txt --tokenizer tokenizer.json --out trained.safetensors
    python gpt.py generate --weights trained.safetensors --tokenizer tokenizer.json --prompt 'Once upon a time'

{textwrap.fill(said, WIDTH)}
"""'''


def heading(document: str, content: str, dropped: set[str]) -> Iterator[str]:
    """The first words of a module as comments, and the rows of its tables that are about this model."""
    title, *others = document.strip().split("\n\n")
    for line in title.splitlines():
        yield f"# ---- {line} ".ljust(WIDTH, "-") if line in title.splitlines()[0] else f"# {line}"
    for rows in map(str.splitlines, others):
        if all(re.search(r"^ {2}|\S {2}| → ", row) for row in rows):
            kept = [row for row in rows if is_about(row.split()[0], content, dropped)]
            aligned = kept if len(kept) > 1 else [re.sub(r"(?<=\S) {3,}", "   ", row) for row in kept]
            yield from (f"# {row}" for row in aligned)


def is_about(subject: str, content: str, dropped: set[str]) -> bool:
    """Whether a row that begins with this word says something of the content: of a shape or a class that is in it."""
    absent = subject[0].isupper() and not re.search(rf"\b{subject}\b", content)
    return subject not in dropped and not absent


def unchosen(settings: Iterable[Any]) -> set[str]:
    """The words for what this model might have been."""
    words: set[str] = set()
    for config in settings:
        for name, kind in get_type_hints(type(config)).items():
            value = getattr(config, name)
            if get_origin(kind) is Literal:
                words |= {*get_args(kind)} - {value}
            if kind is bool:
                words.add(f"un{name}" if value else name)
    return words
