"""The sections of a report that say how well it went: evaluation, alignment, plan and reality."""

from collections.abc import Mapping
from typing import Any

from fledge.core.files import human_bytes
from fledge.core.formatting import format_duration
from fledge.tracking.report.blocks import Block, Facts, Note, Table
from fledge.tracking.report.data import Report
from fledge.tracking.report.words import is_number, number, plain, show, whole

QUANTITIES = {
    "seconds": "time",
    "step_seconds": "seconds per step",
    "tokens_per_second": "tokens per second",
    "memory": "peak memory",
    "bits_per_byte": "bits per byte, at the end",
}
METHODS = {
    "pretrain": "pretraining",
    "sft": "supervised fine-tuning (SFT)",
    "reward": "reward model",
    "dpo": "direct preference optimization (DPO)",
    "ppo": "proximal policy optimization (PPO)",
    "grpo": "group relative policy optimization (GRPO)",
    "reinforce": "REINFORCE",
}
KEYS = ("kind", "step", "split", "data", "references", "limit", "definition")  # equal ones: the newest counts
EVALUATED = ("loss", "perplexity", "bits_per_byte", "accuracy", "top5_accuracy", "calibration_error", "tokens")


def evaluation(report: Report) -> list[Block]:
    """The newest of each kind, as `fledge eval` recorded it."""
    newest: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for each in report.evaluations:
        key = tuple(str(each.get(name)) for name in KEYS)
        newest[key] = each
    splits = [each for each in newest.values() if each["kind"] == "split"]
    blocks: list[Block] = []
    if splits:
        names = [name for name in EVALUATED if any(name in each for each in splits)]
        rows = [[whole(each["step"]), split_name(each), *(number(each.get(name)) for name in names)] for each in splits]
        numeric = [0, *range(2, 2 + len(names))]
        blocks.append(Table(["step", "split", *(plain(name) for name in names)], rows, numeric))
    for each in newest.values():
        where = f"Step {whole(each['step'])}"
        if each["kind"] == "tasks":
            tasks = [task for task in each.get("tasks", []) if isinstance(task, Mapping)]
            rows = [[show(task.get("task")), show(task.get("metric")), *scores(task)] for task in tasks]
            table = Table(["task", "measure", "score (95 % interval)", "by chance"], rows, [2, 3])
            blocks += [Note(f"{where}: tasks"), table]
        elif each["kind"] == "estimate":
            values = {name: value for name, value in each.get("metrics", {}).items() if isinstance(value, Mapping)}
            batches = "random batch" if each.get("batches") == 1 else "random batches"
            title = f"{whole(each.get('batches'))} {batches} of the {split_name(each)} split"
            by = "" if each.get("definition") == "fledge" else f", by the definitions of {show(each.get('definition'))}"
            rows = [
                [plain(name), number(value.get("mean")), number(value.get("stderr"))] for name, value in values.items()
            ]
            blocks += [Note(f"{where}: {title}{by}"), Table(["metric", "estimate", "standard error"], rows, [1, 2])]
        elif each["kind"] in ("texts", "alignment"):
            values = {name: value for name, value in each.get("metrics", each).items() if name not in ("time", "step")}
            facts = [(plain(name.removeprefix("val/")), number(value)) for name, value in values.items()]
            title = "generated texts" if each["kind"] == "texts" else "held-out examples"
            blocks += [Note(f"{where}: {title}"), Facts([row for row in facts if row[1]])]
    if not blocks and report.method != "pretrain":
        return []
    if not blocks and report.state not in ("imported", "unknown") and report.training.get("step"):
        blocks.append(Note(f"Not evaluated yet. On the whole validation split: fledge eval {report.run}"))
    return blocks


def split_name(evaluated: Mapping[str, Any]) -> str:
    of = f" of {evaluated['data']}" if evaluated.get("data") else ""
    return f"{evaluated.get('split')}{of}"


def scores(task: Mapping[str, Any]) -> list[str]:
    low, high = task.get("low"), task.get("high")
    interval = f" ({number(low)} to {number(high)})" if is_number(low) and is_number(high) else ""
    return [number(task.get("score")) + interval, number(task.get("chance"))]


def alignment(report: Report) -> list[Block]:
    found = report.alignment
    if found is None:
        return []
    rewards = ", ".join(
        f"{name}{'' if weight == 1 else f' × {weight:g}'}" for name, weight in found.get("rewards", {}).items()
    )
    rows = [
        ("method", METHODS.get(found["method"], str(found["method"]))),
        ("started from", str(found.get("init") or "")),
        ("reference", str(found.get("init") or "") if found["method"] in ("dpo", "ppo", "grpo") else ""),
        ("data", ", ".join(map(str, found.get("data", [])))),
        ("rewards", rewards),
        *((plain(name), show(value)) for name, value in found.get("settings", {}).items()),
    ]
    metrics = [[name, number(each.get("first")), number(each.get("last"))] for name, each in found["metrics"].items()]
    blocks: list[Block] = [Facts([row for row in rows if row[1]])]
    return blocks + ([Table(["metric", "first", "last"], metrics, [1, 2])] if metrics else [])


def plan(report: Report) -> list[Block]:
    """Forecast and measurement, where the run recorded a forecast."""
    rows: list[list[str]] = []
    for name, each in report.plan.items():
        low, high, difference = (each.get(key) for key in ("low", "high", "difference_percent"))
        interval = f" ({quantity(name, low)} to {quantity(name, high)})" if low is not None else ""
        predicted = quantity(name, each.get("predicted")) + interval
        off = "" if difference is None else f"{difference:+.0f} %"
        rows.append([QUANTITIES.get(name, plain(name)), predicted, quantity(name, each.get("measured")), off])
    rows = [row for row in rows if row[1]]
    return [Table(["quantity", "forecast", "measured", "forecast is off by"], rows, [1, 2, 3])] if rows else []


def quantity(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "seconds":
        return format_duration(value)
    return human_bytes(value) if name == "memory" else number(value)
