"""fledge from Python, for notebooks.

    import fledge

    run = fledge.train("my-notes/", minutes=3)
    run.generate("The ")
    run.evaluate()
    run.metrics()
    run.plot()
    run.attention("the cat sat")
    run.logit_lens("the cat sat")
    run.provenance("the cat sat")
    run = fledge.load("demo@best")
    run = fledge.align("sft", "demo", "chats.jsonl")
    fledge.list_runs()

Settings are nested dictionaries with the keys of a preset file: `model={"n_layer": 4}`. Nothing is printed, unless
`verbose=True` asks for progress; warnings become Python warnings. A wrong argument raises `UserError` with a hint.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fledge.core.config import Layer
from fledge.core.distributed import init_distributed
from fledge.core.errors import Interrupted, UserError
from fledge.datasets.shards import Dataset
from fledge.evaluation.continuations import TextMetrics
from fledge.inference.request import PastContext, Sampling
from fledge.model.gpt import GPT
from fledge.notebook.attention import Attention, read_attention
from fledge.notebook.logit_lens import ShownLogitLens, read_logit_lens
from fledge.notebook.origin import ShownOrigin, read_origin
from fledge.notebook.tables import Figures, Metrics, RunList, summary_table
from fledge.recipes import align as align_recipe
from fledge.recipes import estimate as estimate_recipe
from fledge.recipes import evaluate as evaluate_recipe
from fledge.recipes import generate as generate_recipe
from fledge.recipes import prepare as prepare_recipe
from fledge.recipes import resume as resume_recipe
from fledge.recipes import train as train_recipe
from fledge.recipes.estimate import EstimateResult
from fledge.recipes.evaluate import EvaluateResult
from fledge.recipes.evaluate_tasks import TaskResults, evaluate_tasks
from fledge.recipes.evaluate_texts import evaluate_generated
from fledge.recipes.prepare import PrepareResult, tokenizer_settings
from fledge.runs.dataset import open_run_dataset
from fledge.runs.run_folder import LoadedCheckpoint, RunFolder, open_run
from fledge.runs.summary import RunSummary, summarize_run, summarize_runs
from fledge.settings.words import text_layer
from fledge.tokenizers.base import Tokenizer
from fledge.tracking.sinks.csv import read_metrics

WARNING = "warning: "
PathOrName = str | Path


def prepare(
    sources: PathOrName | Sequence[PathOrName],
    out: PathOrName,
    *,
    tokenizer: PathOrName | Mapping[str, Any] | None = None,
    workers: int | None = None,
    verbose: bool = False,
    **settings: Mapping[str, Any],
) -> PrepareResult:
    """Build a dataset of tokens from files, folders, globs, named corpora or URLs.

    tokenizer: "bpe", "char", "gpt2", "p50k", a tokenizer.json, or settings of [tokenizer].
    settings: `data={"val": 0.1}`.

    >>> fledge.prepare("my-notes/", "data/notes", tokenizer="char")
    """
    names = [str(each) for each in _listed(sources)]
    layer = settings if tokenizer is None else {**settings, "tokenizer": _as_tokenizer_layer(tokenizer)}
    with _session(verbose):
        return prepare_recipe.prepare(names, str(out), layer, workers=workers)


def train(
    *words: PathOrName,
    minutes: float | None = None,
    data: PathOrName | Mapping[str, Any] | None = None,
    tokenizer: PathOrName | Mapping[str, Any] | None = None,
    name: str | None = None,
    init: str | None = None,
    runs: PathOrName = "runs",
    verbose: bool = False,
    **settings: Mapping[str, Any],
) -> "LoadedRun":
    """Train a new run: on a text, with a preset or a TOML file, or from the weights of the run `init`.

    words: text (files, folders, globs, named corpora, URLs, a prepared dataset), and a preset or TOML file.
    minutes: for the whole run; size and steps are then chosen. For text without a preset: 5.
    data: the text, or settings of [data].
    tokenizer: "bpe", "char", "gpt2", "p50k", a tokenizer.json, or settings of [tokenizer].
    name: of the run; None: that of the preset or the text, numbered.

    >>> run = fledge.train("my-notes/", minutes=3)
    >>> run = fledge.train("demo", data="my-notes/", model={"n_layer": 4}, train={"steps": 500})
    """
    layer: dict[str, Mapping[str, Any]] = dict(settings)
    if tokenizer is not None:
        layer["tokenizer"] = _as_tokenizer_layer(tokenizer)
    with _session(verbose), init_distributed() as world:
        if data is not None:
            layer["data"] = data if isinstance(data, Mapping) else text_layer([str(data)])
        asked = [str(word) for word in words]
        result = train_recipe.train(asked, layer, Path(runs), minutes=minutes, name=name, init=init, world=world)
    return load(result.folder)


def align(
    method: str,
    init: PathOrName,
    data: PathOrName | Sequence[PathOrName],
    *,
    reward: PathOrName | Sequence[PathOrName] = (),
    name: str | None = None,
    runs: PathOrName = "runs",
    verbose: bool = False,
    **settings: Mapping[str, Any],
) -> "LoadedRun":
    """Teach the model of the run `init` to answer, as a new run. method: sft, reward, dpo, ppo, grpo or reinforce.

    data: files, folders, hf:// datasets or built-in tasks. reward: runs of reward models, FILE.py, or tasks.

    >>> run = fledge.align("sft", "demo", "chats.jsonl", train={"steps": 200}, model={"lora": 16})
    """
    sources, rewards = ([str(each) for each in _listed(words)] for words in (data, reward))
    with _session(verbose), init_distributed() as world:
        result = align_recipe.align(
            method, str(init), sources, settings, Path(runs), reward=rewards, name=name, world=world
        )
    return load(result.folder)


def resume(
    reference: PathOrName,
    *,
    runs: PathOrName = "runs",
    allow_changes: bool = False,
    verbose: bool = False,
    **settings: Mapping[str, Any],
) -> "LoadedRun":
    """Continue an interrupted run, or train a finished one for longer.

    >>> run = fledge.resume("demo", train={"steps": 4000}, allow_changes=True)
    """
    with _session(verbose), init_distributed() as world:
        result = resume_recipe.resume(str(reference), settings, Path(runs), allow_changes=allow_changes, world=world)
    return load(result.folder)


def load(reference: PathOrName | None = None, *, runs: PathOrName = "runs") -> "LoadedRun":
    """Open a run: "demo", "demo@best", "demo@1000", a path, or None for the latest run.

    Without an @ the best checkpoint is meant. The model is loaded when it is first needed.
    """
    with _session(verbose=False):
        return LoadedRun(open_run(None if reference is None else str(reference), Path(runs), default="best"))


def list_runs(runs: PathOrName = "runs") -> RunList:
    """A summary of every run in the folder, oldest first."""
    with _session(verbose=False):
        return RunList(summarize_runs(Path(runs)))


@dataclass(frozen=True)
class LoadedRun:
    """A run with its model, its metrics and its files; `fledge.train` and `fledge.load` return it."""

    run: RunFolder

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def settings(self) -> Layer:
        """The complete settings: section → key → value."""
        return self.run.config()

    @property
    def summary(self) -> RunSummary:
        """State, steps and best loss, read again each time: `run.summary.state` is "running" while the run trains."""
        return summarize_run(self.run)

    @cached_property
    def dataset(self) -> Dataset:
        """The tokens that the run was trained on: `len(run.dataset.split("train"))`."""
        return open_run_dataset(self.run, self.settings.get("data", {}).get("path"))

    @property
    def step(self) -> int:
        """The step of the loaded checkpoint."""
        return self._loaded.checkpoint.step

    @property
    def model(self) -> GPT:
        """The PyTorch module, in evaluation mode."""
        return self._loaded.model

    @property
    def tokenizer(self) -> Tokenizer:
        return self._loaded.tokenizer

    @cached_property
    def _loaded(self) -> LoadedCheckpoint:
        with _session(verbose=False):
            return self.run.load()

    def generate(self, prompt: str | None = None, **options: Any) -> str:
        """The prompt and the text that follows it; None: the prompt of the run's samples. The options of `stream`."""
        return "".join(self.stream(prompt, **options))

    def stream(
        self,
        prompt: str | None = None,
        *,
        tokens: int = 300,
        stop: str | Sequence[str] = (),
        device: str = "auto",
        dtype: str = "auto",
        past_context: PastContext = "reread",
        begin_with: str | None = None,
        ignore_end_of_text: bool = False,
        temperature: float = 0.8,
        **sampling: Any,
    ) -> Iterator[str]:
        """The prompt, and up to `tokens` tokens after it, piece by piece as they are generated.

        stop: the text ends before one of these strings. temperature: 0 is greedy, 1 the model's own distribution.
        past_context: when the context is full, "reread" reads its newer half again; "slide" slides by one token, as
        nanoGPT does, and then each token costs a whole context.
        begin_with: a special token before the prompt. ignore_end_of_text: go on after the end-of-text token.
        sampling: top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, seed.
        """
        stop = (stop,) if isinstance(stop, str) else stop
        with _session(verbose=False):
            how = Sampling(temperature=temperature, **sampling)
            prompts, loaded = None if prompt is None else [prompt], self._loaded
            generating = generate_recipe.generate(
                loaded,
                prompts,
                tokens=tokens,
                sampling=how,
                stop=stop,
                past_context=past_context,
                begin_with=begin_with,
                ignore_end_of_text=ignore_end_of_text,
                device=device,
                dtype=dtype,
            )
        yield generating.prompts[0]
        yield from (chunk.text for _, chunk in generating.chunks() if chunk.text)

    def evaluate(
        self,
        split: str = "val",
        *,
        data: PathOrName | None = None,
        compare: PathOrName | None = None,
        figure: PathOrName | None = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> EvaluateResult:
        """Loss, bits per byte, accuracy, calibration, … on a whole split of the run's dataset, or of `data`.

        compare: another run or checkpoint; see `result.comparison.verdict`. figure: a PNG file to draw.
        """
        path, other = (None if each is None else str(each) for each in (data, compare))
        with _session(verbose):
            return evaluate_recipe.evaluate(
                self._loaded,
                split,
                runs=self.folder.parent,
                data=path,
                compare=other,
                figure=None if figure is None else Path(figure),
                device=device,
            )

    def estimate(
        self,
        split: str = "val",
        *,
        metrics: str = "fledge",
        batches: int = 100,
        batch_size: int = 32,
        seed: int = 0,
        data: PathOrName | None = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> EstimateResult:
        """The loss and more on random batches, each with its standard error: `.metrics["loss"].stderr`.

        metrics: by whose definitions: "fledge", or "smol-gpt" for those that smol-GPT publishes.
        """
        with _session(verbose):
            return estimate_recipe.estimate(
                self._loaded,
                split,
                definition=metrics,
                batches=batches,
                batch_size=batch_size,
                seed=seed,
                data=None if data is None else str(data),
                device=device,
            )

    def evaluate_texts(
        self,
        references: PathOrName | None = None,
        *,
        continuations: int = 64,
        data: PathOrName | None = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> TextMetrics:
        """BLEU, chrF, ROUGE, repetition and copying of texts that the model generates greedily.

        references: a JSONL file with a "prompt" and a "reference" a line; None: passages of the validation split.
        """
        file, path = None if references is None else Path(references), None if data is None else str(data)
        with _session(verbose):
            return evaluate_generated(self._loaded, file, continuations, data=path, device=device)

    def evaluate_tasks(
        self,
        *tasks: str,
        compare: PathOrName | None = None,
        core_data: PathOrName | None = None,
        task_folder: PathOrName | None = None,
        limit: int | None = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> TaskResults:
        """Tasks with right answers: `run.evaluate_tasks("offline").tasks`; names as in `fledge eval --tasks`.

        compare: another run or checkpoint on the same items; see `result.differences`.
        """
        core, folder = (None if each is None else Path(each) for each in (core_data, task_folder))
        other = None if compare is None else str(compare)
        with _session(verbose):
            return evaluate_tasks(
                self._loaded,
                tasks,
                runs=self.folder.parent,
                compare=other,
                core_data=core,
                task_folder=folder,
                limit=limit,
                device=device,
            )

    def attention(self, text: str) -> Attention:
        """What every head attends to in this text: `.weights[layer, head]`; `.head(layer, head)` shows one."""
        with _session(verbose=False):
            return read_attention(self._loaded, text)

    def logit_lens(self, text: str, top: int = 5) -> ShownLogitLens:
        """What the model would predict after each layer: `.top_probabilities[layer, position]` and more."""
        with _session(verbose=False):
            return read_logit_lens(self._loaded, text, top)

    def provenance(self, text: str) -> ShownOrigin:
        """Where a text comes from: its matches in the training data, their documents, steps and losses."""
        with _session(verbose=False):
            return read_origin(self.run, text)

    def metrics(self) -> Metrics:
        """What was logged: name → one value a row, NaN where there is none. `pandas.DataFrame` takes it as it is."""
        return Metrics(read_metrics(self.folder))

    def plot(self, out: PathOrName | None = None) -> Figures:
        """Draw the metrics as PNG files in `out`; None: in plots/ of the run."""
        from fledge.recipes.plot import plot  # matplotlib takes a second to import

        with _session(verbose=False):
            result = plot([str(self.folder)], self.folder.parent, None if out is None else Path(out))
        return Figures(result.figures)

    def _repr_html_(self) -> str:
        return summary_table([summarize_run(self.run)])


def _as_tokenizer_layer(tokenizer: PathOrName | Mapping[str, Any]) -> Mapping[str, Any]:
    return tokenizer if isinstance(tokenizer, Mapping) else tokenizer_settings(str(tokenizer))


@contextlib.contextmanager
def _session(verbose: bool) -> Iterator[None]:
    """Without `verbose`, keep stderr quiet: its warnings become Python warnings. Errors show their hints."""
    output = io.StringIO()
    try:
        with contextlib.nullcontext() if verbose else contextlib.redirect_stderr(output):
            yield
    except UserError as error:
        error.add_note(f"hint: {error.hint}")
        raise
    except Interrupted as stop:
        stop.add_note(f"everything is saved; continue with fledge.resume, or: {stop.resume_with}")
        raise
    for line in output.getvalue().splitlines():
        if line.startswith(WARNING):
            warnings.warn(line.removeprefix(WARNING), stacklevel=4)  # of the caller of the API


def _listed(words: PathOrName | Sequence[PathOrName]) -> Sequence[PathOrName]:
    return [words] if isinstance(words, str | Path) else words
