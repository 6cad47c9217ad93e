"""The order and the words of a report: data → sections of blocks, which HTML and Markdown render alike."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fledge.core.files import human_bytes
from fledge.core.formatting import counted, format_duration
from fledge.tracking.report.blocks import Block, Charts, Commands, Facts, Folded, Note, Page, Samples, Section, Table
from fledge.tracking.report.data import Incident, Report, SavedCheckpoint, Session
from fledge.tracking.report.results import METHODS, alignment, evaluation, plan
from fledge.tracking.report.words import duration, is_number, number, setting, show, whole

STATES = {
    "running": "still training",
    "finished": "finished",
    "interrupted": "interrupted",
    "failed": "ended by an error",
    "killed": "killed",
    "imported": "imported",
    "unknown": "state not known",
}


def lay_out(report: Report) -> Page:
    tone = {"finished": "good", "running": "plain", "imported": "plain", "failed": "bad", "killed": "bad"}
    sections = [
        Section("problems", "What is missing", [Note(text, warning=True) for text in report.problems]),
        Section("curves", "Curves", [Charts(report.charts)] if report.charts else [Note(no_curves(report))]),
        Section("samples", "Samples through time", [Samples(report.samples)] if report.samples else []),
        Section("evaluation", "Evaluation", evaluation(report)),
        Section("alignment", "Alignment", alignment(report)),
        Section("model", "Model", [Facts(model(report))] if report.model else []),
        Section("data", "Text and tokenizer", data(report)),
        Section("training", "Training", training(report)),
        Section("plan", "Plan and reality", plan(report)),
        Section("incidents", "What did not go as usual", incidents(report)),
        Section("checkpoints", "Checkpoints", checkpoints(report)),
        Section("configuration", "Configuration", configuration(report)),
        Section("reproduce", "How to reproduce it", reproduce(report)),
        Section("hashes", "Hashes", [Facts(list(report.hashes.items()))] if report.hashes else []),
    ]
    return Page(
        title=report.run,
        subtitle=subtitle(report),
        state=STATES.get(report.state, report.state),
        tone=tone.get(report.state, "warn"),
        headline=headline(report),
        sections=[section for section in sections if section.blocks],
    )


def subtitle(report: Report) -> str:
    """A GPT with 865,344 parameters, trained on notes/ for 904 steps in 2 min 10 s."""
    parameters, step = report.model.get("parameters"), report.training.get("step")
    what = f"A GPT with {parameters:,} parameters" if parameters else "A GPT"
    if report.method == "reward":
        what = what.replace("GPT", "reward model")
    if report.state == "imported":
        return f"{what}, imported from another program."
    how = "trained" if report.method == "pretrain" else f"aligned by {METHODS.get(report.method, report.method)}"
    text = f" on {short_name(report.data['text'])}" if report.data.get("text") else ""
    steps = f" for {counted(step, 'step')}" if step else ""
    seconds = report.training.get("seconds")
    return f"{what}, {how}{text}{steps}{f' in {format_duration(seconds)}' if seconds else ''}."


def short_name(text: str) -> str:
    """Of a text: a path of this machine by its last part."""
    return ", ".join(Path(each).name if Path(each).is_absolute() else each for each in text.split(", "))


def headline(report: Report) -> list[tuple[str, str]]:
    result, training = report.result, report.training
    where = "whole validation split" if result.get("whole_split") else "sample of the validation split"
    best = f"step {result['best_step']:,}" if result.get("best_step") is not None else ""
    rows = [
        (f"reward of held-out answers, {best}", number(result.get("reward"))),
        (f"loss, {where}, {best}", number(result.get("val_loss"))),
        ("bits per byte", number(result.get("bits_per_byte"))),
        ("parameters", whole(report.model.get("parameters"))),
        ("steps", progress(training)),
        ("tokens", whole(training.get("tokens"))),
        ("training time", duration(training.get("seconds"))),
    ]
    return [(name.removesuffix(", "), value) for name, value in rows if value]


def progress(training: Mapping[str, Any]) -> str:
    step, steps = training.get("step"), training.get("steps")
    if step is None:
        return ""
    return f"{step:,}" if steps in (None, step) else f"{step:,} of {steps:,}"


def no_curves(report: Report) -> str:
    if report.state == "imported":
        return "This model was imported: its training was recorded elsewhere."
    return "No metrics yet: the first step that is logged will appear here."


def model(report: Report) -> list[tuple[str, str]]:
    found = report.model
    names = {
        "parameters": "parameters",
        "n_layer": "blocks",
        "n_embd": "width",
        "n_head": "attention heads",
        "n_kv_head": "key and value heads",
        "context": "context (tokens)",
        "vocab_size": "vocabulary (tokens)",
        "positions": "positions",
        "norm": "normalization",
        "block": "where blocks normalize",
        "final_norm": "norm before the head",
        "mlp": "MLP",
        "tied": "embedding and head share weights",
        "lora": "rank of the LoRA adapters",
        "flops_per_token": "FLOPs per token in training",
    }
    return [(label, show(found[name])) for name, label in names.items() if found.get(name) is not None]


def data(report: Report) -> list[Block]:
    if report.alignment is not None:  # which names its data
        return []
    found, tokenizer = report.data, report.data.get("tokenizer", {})
    rows = [("text", str(found.get("text") or "")), ("dataset", str(found.get("folder") or ""))]
    rows += [("tokenizer", str(tokenizer.get("kind") or tokenizer.get("file") or ""))]
    blocks: list[Block] = [Facts([row for row in rows if row[1]])] if any(value for _, value in rows) else []
    if splits := found.get("splits"):
        table = [
            [name, whole(each["tokens"]), whole(each["documents"]), human_bytes(each["bytes"]) if each["bytes"] else ""]
            for name, each in splits.items()
        ]
        blocks.append(Table(["split", "tokens", "documents", "text"], table, [1, 2, 3]))
    return blocks


def training(report: Report) -> list[Block]:
    found, machine = report.training, report.machine
    cores = f", {counted(machine['cores'], 'core')}" if is_number(machine.get("cores")) else ""
    processes = machine.get("processes", 1)
    rows = [
        ("method", METHODS.get(report.method, report.method) if report.state != "imported" else ""),
        (
            "imported" if report.state == "imported" else "started",
            report.started.replace("T", " ").replace("Z", " UTC"),
        ),
        ("steps", progress(found)),
        ("end", str(found.get("stopped_early") or "")),
        ("last saved step", whole(found.get("saved_step"))),
        ("sequences per step", whole(found.get("batch"))),
        ("tokens", whole(found.get("tokens"))),
        ("passes over the text", number(found.get("epochs"))),
        ("time", duration(found.get("seconds"))),
        ("tokens per second (median)", whole(found.get("tokens_per_second"))),
        ("peak memory", human_bytes(found["peak_memory"]) if found.get("peak_memory") else ""),
        ("seed", setting(found["seed"]) if "seed" in found else ""),
        ("machine", f"{machine['processor']}{cores}" if machine.get("processor") else ""),
        ("device, dtype", ", ".join(str(machine[name]) for name in ("device", "dtype") if machine.get(name))),
        ("processes", whole(processes) if processes != 1 else ""),
        *((name, str(value)) for name, value in report.environment.items()),
    ]
    blocks: list[Block] = [Facts([row for row in rows if row[1]])]
    if len(report.sessions) > 1:
        blocks.append(sessions(report.sessions))
    return blocks


def sessions(found: Sequence[Session]) -> Table:
    rows = []
    for each in found:
        begun = "" if each.started is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(each.started))
        last = "" if each.last_step is None else f"{each.last_step:,}"
        rows.append([begun, f"{each.first_step:,}", last, each.reason, duration(each.seconds)])
    return Table(["process started", "from step", "to step", "ended", "time"], rows, [1, 2, 4])


def incidents(report: Report) -> list[Block]:
    if not report.incidents:
        return [Note("Nothing: no warning, no anomaly, no rollback.")] if report.training.get("step") else []
    rows = [[steps_of(each), each.kind, each.text] for each in report.incidents]
    return [Table(["step", "what", "details"], rows, [0])]


def steps_of(incident: Incident) -> str:
    last = incident.last_step
    return f"{incident.step:,}" if last is None else f"{incident.step:,} to {last:,}"


def checkpoints(report: Report) -> list[Block]:
    """Those that training can continue from, the best, and a few of the others."""
    whole_ones = [each for each in report.checkpoints if not each.weights_only or each.best]
    others = [each for each in report.checkpoints if each not in whole_ones]
    if not report.checkpoints:
        return [Note("None is complete.")] if report.training.get("step") else []
    rewarded = report.result.get("reward") is not None
    table = _checkpoint_table(whole_ones, rewarded)
    if not others:
        return [table]
    return [
        table,
        Folded(f"{counted(len(others), 'checkpoint')} of weights alone", _checkpoint_table(others, rewarded)),
    ]


def _checkpoint_table(found: Sequence[SavedCheckpoint], rewarded: bool) -> Table:
    """rewarded: the reward of held-out answers was measured; its negative stands for the loss."""
    rows = []
    for each in found:
        value = 0.0 - each.val_loss if rewarded and each.val_loss is not None else each.val_loss
        rows.append([f"{each.step:,}", number(value), "best" if each.best else "", each.model_sha256 or ""])
    return Table(
        ["step", "reward" if rewarded else "validation loss", "which", "SHA-256 of the weights"], rows, [0, 1], [3]
    )


def configuration(report: Report) -> list[Block]:
    blocks: list[Block] = []
    of = f"of the preset '{report.preset}'" if report.preset and report.alignment is None else "of the method's preset"
    if report.changes:
        rows = [[each.name, setting(each.preset), setting(each.run)] for each in report.changes]
        table = Table(["setting", "preset", "this run"], rows, (), [0, 1, 2])
        blocks += [Note(f"Settings that differ from those {of}:"), table]
    sections = report.configuration.items()
    rows = [[f"{name}.{key}", setting(value)] for name, keys in sections for key, value in keys.items()]
    if rows:
        blocks.append(Folded(f"All {len(rows)} settings", Table(["setting", "value"], rows, (), [0, 1])))
    return blocks


def reproduce(report: Report) -> list[Block]:
    if not report.reproduce:
        return []
    words = "The same machine, settings, text and number of threads give the same weights, bit for bit."
    return [Commands(report.reproduce), Note(words)]
