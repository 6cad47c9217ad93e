"""Tasks of lm-evaluation-harness: its prompts, filters and metrics, on our scorer and our engine.

    run_harness(["hellaswag", "my-task"], scorer, folder=Path("my-tasks"), limit=None)

The scores are those of its own `hf` backend on our export. Importing this module needs the extra [lm-eval].
"""

import contextlib
import io
import logging
import math
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval import evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

from fledge.core.errors import UserError, nearest, out_of_memory
from fledge.evaluation.likelihood import Scorer
from fledge.inference.decoder_reference import ReferenceDecoder
from fledge.inference.engine import Engine
from fledge.inference.request import Request, Sampling
from fledge.tasks.results import ItemScore, TaskResult, summarize

HEADLINES = ("acc_norm", "acc", "exact_match", "bits_per_byte")  # the first that a task has; else its first metric
MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
SEED = 1234
SLOTS = 16  # texts that are generated at a time


class FledgeLM(TemplateLM):  # type: ignore[misc]
    """The interface of lm-evaluation-harness to a model."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    @property
    def eot_token_id(self) -> int:
        return self.scorer.prefix

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        return self.scorer.encode(string)

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        found = self.scorer.score([(context, continuation) for _, context, continuation in requests])
        return [(each.logprob, each.is_greedy) for each in found]

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
        return [each.logprob for each in self.scorer.rolling([self.tok_encode(*each.args) for each in requests])]

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        scorer, slots = self.scorer, min(SLOTS, len(requests))
        engine = Engine(ReferenceDecoder(scorer.model, slots, scorer.machine), scorer.tokenizer)
        generations = [engine.submit(self._request(*each.args)) for each in requests]
        while engine.step():
            pass
        if failed := [each.error for each in generations if each.error]:
            raise RuntimeError(failed[0])
        return [each.text for each in generations]

    def _request(self, context: str, options: Mapping[str, Any]) -> Request:
        """As the harness does: the context is cut on the left, so that there is room for what is generated."""
        until = options.get("until") or []
        count = next((int(options[name]) for name in MAX_TOKENS if options.get(name) is not None), 256)
        sampled = options.get("do_sample", float(options.get("temperature", 0)) > 0)
        sampling = Sampling(
            temperature=float(options.get("temperature", 1)) if sampled else 0.0,
            top_k=max(0, options.get("top_k") or 0) or None,  # 0 and -1: all tokens
            top_p=options.get("top_p"),
        )
        prompt = self.tok_encode(context)[-max(1, self.scorer.context - count) :] or [self.scorer.prefix]
        stop = tuple(filter(None, [until] if isinstance(until, str) else until))
        return Request(tuple(prompt), count, sampling, stop)


def run_harness(
    names: Sequence[str], scorer: Scorer, folder: Path | None, limit: int | None, others: Sequence[str] = ()
) -> list[TaskResult]:
    """Tasks and groups by name, or by the path of their YAML file. `folder`: local tasks, beside those of the library.

    others: names that are known elsewhere, for the hint at an unknown one.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = find_tasks(names, folder, others)
    try:
        with contextlib.redirect_stdout(sys.stderr), quiet_pipes():  # our stdout holds the result only
            found = evaluate(FledgeLM(scorer), load_tasks(manager, names), limit=limit, bootstrap_iters=0)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if isinstance(error, UserError) or out_of_memory(error):
            raise
        first = str(error).partition("\n")[0]
        hint = "check its YAML file, and whether its data can be downloaded; --debug shows where it failed"
        raise UserError(f"lm-evaluation-harness cannot run {', '.join(names)}: {first}", hint) from error
    groups: dict[str, list[Any]] = {name: [] for name in found.get("groups", {})}
    return [
        _task_result(name, metrics, samples)
        for name, samples in {**groups, **found["samples"]}.items()
        if (metrics := _metrics(found["results"][name]))
    ]


def find_tasks(names: Sequence[str], folder: Path | None, others: Sequence[str]) -> TaskManager:
    """The library's own tasks are read only where a name needs them: there are thousands."""
    if folder is not None and not folder.is_dir():
        raise UserError(f"'{folder}' is not a folder", "give the folder that holds the YAML files: --task-folder DIR")
    include = None if folder is None else str(folder)
    for defaults in (False, True):
        manager = TaskManager(include_path=include, include_defaults=defaults)
        unknown = [name for name in names if name not in manager.task_index and not Path(name).is_file()]
        if not unknown:
            return manager
    hint = (
        nearest(unknown[0], [*others, *manager.all_tasks])
        or "see the names: lm-eval ls tasks; local ones: --task-folder DIR"
    )
    raise UserError(f"unknown task '{unknown[0]}'", hint)


def load_tasks(manager: TaskManager, names: Sequence[str]) -> Any:
    """As `lm_eval.simple_evaluate` does it, with its seeds; that would also look for git and print the environment."""
    random.seed(0)
    np.random.seed(SEED)
    loaded = manager.load(list(names))
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    return loaded


def quiet_pipes() -> contextlib.AbstractContextManager[Any]:
    """The harness draws many progress bars: not into a file or a pipe."""
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Name, and filter if there is one, → value; empty for a group that only lists tasks."""
    return {
        key.removesuffix(",none").replace(",", " "): float(value)
        for key, value in values.items()
        if "," in key and "_stderr," not in key and isinstance(value, int | float)
    }


def _task_result(name: str, metrics: dict[str, float], samples: Sequence[Mapping[str, Any]]) -> TaskResult:
    headline = next((metric for metric in HEADLINES if metric in metrics), next(iter(metrics)))
    metric, _, chosen = headline.partition(" ")
    scores = {
        sample["doc_id"]: score
        for sample in samples
        if sample.get("filter", "none") == (chosen or "none") and (score := _item_score(metric, sample.get(metric)))
    }
    is_choice = metric in ("acc", "acc_norm") and "acc_mutual_info" not in metrics  # which asks each choice twice
    choices = [len(sample["arguments"]) for sample in samples if is_choice]
    known: dict[str, Any] = {
        "chance": sum(1 / n for n in choices) / len(choices) if choices and min(choices) > 1 else None,
        "higher_is_better": not any(word in metric for word in ("perplexity", "bits_per_byte")),
        "about": "lm-evaluation-harness",
        "metrics": metrics,
    }
    result = summarize(name, headline, scores, **known)
    if math.isclose(result.score, metrics[headline], rel_tol=1e-6, abs_tol=1e-9):
        return result
    return TaskResult(name, headline, metrics[headline], None, None, None, len(samples), **known)  # not a mean of items


def _item_score(metric: str, value: Any) -> ItemScore | None:
    if metric == "bits_per_byte" and isinstance(value, tuple):  # log-probability, bytes
        return ItemScore(-value[0] / math.log(2), value[1])
    return ItemScore(float(value)) if isinstance(value, int | float) else None
