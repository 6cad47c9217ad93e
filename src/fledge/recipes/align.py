"""Align a model: the weights of a run + data + a method → a new run.

settings   [model] of the initial run < the preset of the method < --section.key value
method     data, reference model, rewards (alignment/open_method.py)
training   the trainer of pretraining, with checkpoints, rollback, resume and tracking
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fledge.alignment.config import METHOD_SETTINGS, AlignSettings
from fledge.alignment.open_method import open_method
from fledge.alignment.rewards import (
    read_reward_files,
    reward_metadata,
    split_weights,
    store_reward_files,
    stored_reward_files,
)
from fledge.alignment.tasks.registry import TASKS
from fledge.core import device as machines
from fledge.core.config import Layer, merge
from fledge.core.device import Machine
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.errors import UserError, nearest
from fledge.model.lora import plain_config
from fledge.model.vocabulary import with_vocabulary
from fledge.recipes.new_run import train_new_run
from fledge.runs import metadata, run_folder
from fledge.runs.methods import refuse_reward_model
from fledge.runs.names import check_run_name
from fledge.runs.run_folder import RunFolder
from fledge.settings.complete import alignment_toml, complete_alignment
from fledge.settings.layers import read_align_preset
from fledge.settings.pipeline import validated
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.chat_template import ChatTemplate, add_chat_tokens, find_chat_template
from fledge.tracking.sinks.jsonl import read_events
from fledge.training.init_from import InitialWeights, find_initial_weights
from fledge.training.method import Method
from fledge.training.setup import check_batch_divisible

ALIGN_SETTINGS = ("examples", "val")  # of [align]; the others are arguments of `align`
NO_EFFECT = ("train.epochs", "train.context", "train.eval_tokens", "model.value_head")
LORA_RATE = 10.0  # adapters need about ten times the learning rate of whole weights


@dataclass(frozen=True)
class AlignResult:
    run: str
    folder: Path
    method: str
    step: int  # of the last update
    best_step: int | None  # of the checkpoint that the held-out examples favour, which `fledge chat` uses
    metrics: dict[str, float]  # of the last evaluation


def align(
    method: str,
    init: str,
    data: Sequence[str] = (),
    overrides: Layer | None = None,
    runs: Path = Path("runs"),
    *,
    reward: Sequence[str] = (),
    name: str | None = None,
    world: World = SINGLE_PROCESS,
) -> AlignResult:
    """Train a new run in `runs` from the weights of `init`, a run such as "demo@best".

    data: files, folders, hf:// datasets or built-in tasks.
    reward: runs of reward models, FILE.py, or tasks, each perhaps with a weight: "short.py=0.5".
    overrides: settings that replace those of the method's preset: section → key → value.
    """
    if name is not None:
        check_run_name(name)
        run_folder.refuse_existing(runs / name)
    initial = find_initial_weights(init, runs)
    tokenizer, template = chat_format(initial.run)
    settings = align_settings(method, initial, data, reward, overrides or {}, runs)
    files = read_reward_files(settings.align.reward)
    check_batch_divisible(settings.train.batch, world)
    machine = machines.choose_machine(settings.train.device, settings.train.dtype, world, settings.train.threads)
    if settings.train.threads is None:
        machines.leave_busy_cores(machine)
    complete = complete_alignment(settings, machine)
    trained = open_method(complete, machine, tokenizer, template, initial, runs, files)
    start = initial.initial_state(complete, tokenizer)
    about = {
        **metadata.run_metadata(trained, machine),
        "method": method,
        "init": initial.name,
        "init_sha256": initial.sha256,
        "reward_sha256": reward_metadata(files),
    }

    def create() -> str:
        folder = runs / (name or run_folder.free_name(runs, f"{initial.run.name}-{method}"))
        run_folder.refuse_existing(folder)
        config = alignment_toml(complete)
        run = run_folder.create_run(folder, config, about, tokenizer, start, template.settings)
        store_reward_files(files, run.folder)
        return run.name

    run = RunFolder(runs / world.broadcast_from_main(create))
    trained_run = train_new_run(run, complete, machine, trained, start)
    return AlignResult(
        trained_run.run, run.folder, method, trained_run.step, trained_run.best_step, last_evaluation(run)
    )


def print_settings(
    method: str, init: str, data: Sequence[str], overrides: Layer, runs: Path, *, reward: Sequence[str] = ()
) -> AlignSettings:
    """What `align` would use, before it looks at the data and the machine."""
    return align_settings(method, find_initial_weights(init, runs), data, reward, overrides, runs)


def chat_format(run: RunFolder) -> tuple[Tokenizer, ChatTemplate]:
    """The tokenizer and the template of a run; one without a template gets the chat tokens and our own."""
    tokenizer, template = run.tokenizer(), run.chat_template()
    if template is None:
        tokenizer = add_chat_tokens(tokenizer)
        template = find_chat_template(tokenizer, {})
        assert template is not None
    return tokenizer, template


def last_evaluation(run: RunFolder) -> dict[str, float]:
    """The newest value of every val/ metric."""
    found: dict[str, float] = {}
    for event in read_events(run.folder):
        if event["event"] == "Metrics":
            found |= {name: value for name, value in event["values"].items() if name.startswith("val/")}
    return {name: value for name, value in found.items() if name != "val/seconds"}


def align_settings(
    method: str, initial: InitialWeights, data: Sequence[str], reward: Sequence[str], overrides: Layer, runs: Path
) -> AlignSettings:
    """The preset of the method, with the model of the initial run, and what the run must find again when resumed."""
    if method not in METHOD_SETTINGS:
        hint = nearest(method, METHOD_SETTINGS) or f"the methods are: {', '.join(METHOD_SETTINGS)}"
        raise UserError(f"there is no method '{method}'", hint)
    if method != "reward":
        refuse_reward_model(initial.run)
    refuse_without_effect(overrides)
    rewards, weights = split_weights(reward)
    elsewhere = initial.run.folder.parent.resolve() != runs.resolve()
    vocab_size, preset = chat_format(initial.run)[0].vocab_size, read_align_preset(method)
    model = asdict(with_vocabulary(plain_config(initial.run.model_config()), vocab_size))
    model |= {"attention": "auto", **preset.get("model", {})}
    if overrides.get("model", {}).get("lora") not in (None, "null"):
        model["lora_embeddings"] = vocab_size > initial.run.tokenizer().vocab_size  # added tokens must be learned
        preset["optim"] |= {rate: round(LORA_RATE * preset["optim"][rate], 9) for rate in ("lr", "min_lr")}
    align = {
        "method": method,
        "init": f"{initial.run.folder.resolve()}@{initial.checkpoint.step}" if elsewhere else initial.name,
        "data": tuple(str(Path(source).resolve()) if Path(source).exists() else source for source in data),
        "reward": rewards,
        "reward_weights": weights,
    }
    settings = validated(merge(preset, {"model": model, "align": align}), overrides)
    assert isinstance(settings, AlignSettings)
    return settings


def refuse_without_effect(overrides: Layer) -> None:
    for name in (f"{section}.{key}" for section, keys in overrides.items() for key in keys):
        section, _, key = name.partition(".")
        if section == "align" and key not in ALIGN_SETTINGS:
            raise UserError(f"{name} is not set here", "use --init, --data and --reward, and the name of the method")
        if section in ("data", "tokenizer") or name in NO_EFFECT:
            raise UserError(f"{name} has no effect on an alignment run", "leave it out")


def reopen_method(run: RunFolder, settings: AlignSettings, machine: Machine, *, trust: bool = False) -> Method:
    """The method of an alignment run, from its settings; refused where its data or its reference has changed.

    trust: execute the reward functions of a run that came from elsewhere.
    """
    initial = find_initial_weights(settings.align.init, run.folder.parent)
    template = run.chat_template()
    assert template is not None, "every alignment run has a chat template"
    if initial.sha256 != run.metadata_value("init_sha256"):
        raise UserError(
            f"'{settings.align.init}' is not the model that '{run.name}' started from: its weights have changed",
            "restore that run from a copy: it is the reference model",
        )
    files = stored_reward_files(run.folder, run.metadata().get("reward_sha256", {}), trust=trust, world=machine.world)
    method = open_method(settings, machine, run.tokenizer(), template, initial, run.folder.parent, files)
    if method.fingerprint != run.metadata_value("dataset_sha256"):
        raise UserError(
            f"the data of '{run.name}' has changed: {', '.join(settings.align.data)}",
            "restore the old data, or start a new run: fledge align",
        )
    return method


@dataclass(frozen=True)
class TaskInfo:
    name: str
    summary: str
    prompt: str  # of an example
    answers: list[tuple[str, float]]  # a better and a worse one, with their rewards


def list_tasks() -> list[TaskInfo]:
    """The built-in tasks, each with an example."""
    infos = []
    for name, task in TASKS.items():
        [example] = task.examples(seed=0, count=1, split="train")
        prompt, texts = example.messages[-1]["content"], (example.chosen or "", example.rejected or "")
        answers = [(text, task.reward(prompt, text, example.target)) for text in texts]
        infos.append(TaskInfo(name, task.summary, prompt, answers))
    return infos
