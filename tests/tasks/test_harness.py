"""Tasks of lm-evaluation-harness: the scores of its own `hf` backend on our export."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.evaluation.likelihood import Scorer
from fledge.exchange.huggingface import write_hf_folder
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.tasks.results import TaskResult
from fledge.tasks.run import run_tasks
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.hf import HFTokenizer
from lm_tasks import ANSWER, CHOICE, COUNTED, MEASURED, PERPLEXITY, TASKS, offline, write_tasks
from tiny import GPT2_PARTS, WORDS

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
END = "<|endoftext|>"
TEXT = " ".join(WORDS) + ".\n"
LLAMA: dict[str, Any] = {"qk_norm": False, "rotary_base": 5e5, "n_kv_head": 2}
GPT2: dict[str, Any] = {**GPT2_PARTS, "mlp": "gelu_tanh", "qk_norm": False, "tied": True}
CASES = {"llama-bpe": (LLAMA, "bpe"), "gpt2-char": (GPT2, "char")}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    offline(monkeypatch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def make(case: str) -> tuple[GPT, Tokenizer]:
    """A random model whose likeliest tokens have clear leads, so that rounding changes no greedy text."""
    parts, kind = CASES[case]
    tokenizer: Tokenizer = (
        HFTokenizer.train([TEXT], 290, END) if kind == "bpe" else CharTokenizer.train([TEXT], special=END)
    )
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 64, "context": 48, "vocab_size": tokenizer.vocab_size}
    model = build(ModelConfig(**shape, **parts), 0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model, tokenizer


def ours(case: str, folder: Path, names: Any = TASKS, **options: Any) -> dict[str, TaskResult]:
    scorer = Scorer(*make(case), Machine("cpu", "float32"))
    return {each.task: each for each in run_tasks(names, scorer, task_folder=folder, **options)}


def theirs(case: str, folder: Path, export: Path) -> dict[str, dict[str, float]]:
    export.mkdir()
    write_hf_folder(export, *make(case))
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    arguments = {"pretrained": str(export), "device": "cpu", "dtype": "float32"}
    found = lm_eval.simple_evaluate(
        "hf", arguments, tasks=list(TASKS), task_manager=manager, batch_size=5, bootstrap_iters=0
    )
    return found["results"]


def answers_of(case: str, folder: Path) -> list[tuple[str, str]]:
    """Questions, every second one with what the model really answers: so the exact matches are neither none nor all."""
    model, tokenizer = make(case)
    from fledge.tasks.harness import FledgeLM

    questions = [" ".join(WORDS[n : n + 3]) for n in range(10)] + ["the lazy dog " * 20]
    requests = [FakeRequest((question, {"until": ["\n", "."], "max_gen_toks": 8})) for question in questions]
    texts = FledgeLM(Scorer(model, tokenizer, Machine("cpu", "float32"))).generate_until(requests)
    return [
        (q, text.strip() if n % 2 == 0 else "wrong") for n, (q, text) in enumerate(zip(questions, texts, strict=True))
    ]


class FakeRequest:
    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_those_of_the_hf_backend(case: str, tmp_path: Path) -> None:
    folder = write_tasks(tmp_path, answers=answers_of(case, tmp_path))
    found, expected = ours(case, folder), theirs(case, folder, tmp_path / "export")
    for task in TASKS:
        for key in COUNTED.get(task, ()):
            assert found[task].metrics[key.removesuffix(",none")] == expected[task][key], key
        for key in MEASURED.get(task, ()):
            assert found[task].metrics[key.removesuffix(",none")] == pytest.approx(expected[task][key], rel=1e-4), key
    assert 0 < found[ANSWER].score < 1, "else the test would prove little"
    assert 0 < found[CHOICE].score < 1
    assert found[CHOICE].metric == "acc_norm"
    assert found[CHOICE].chance == pytest.approx(1 / 3)
    assert found[PERPLEXITY].metric == "bits_per_byte"
    assert found[PERPLEXITY].higher_is_better is False
    for result in found.values():
        assert result.low < result.score < result.high
        assert result.items == len(result.item_scores) > 10


@pytest.mark.parametrize("top_k", [0, -1, None])
def test_no_top_k_by_any_of_its_values(top_k: int | None) -> None:
    from fledge.tasks.harness import FledgeLM

    model, tokenizer = make(next(iter(CASES)))
    options = {"do_sample": True, "temperature": 0.7, "top_k": top_k, "until": []}
    request = FledgeLM(Scorer(model, tokenizer, Machine("cpu", "float32")))._request(WORDS[0], options)
    assert request.sampling.top_k is None


def test_limit_and_a_task_by_the_path_of_its_file(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path)
    (found,) = ours("llama-bpe", tmp_path, [str(folder / f"{CHOICE}.yaml")], limit=7).values()
    assert (found.task, found.items) == (CHOICE, 7)


def test_groups_of_tasks_have_a_score(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path)
    mean = {"metric": "acc", "aggregation": "mean", "weight_by_size": True}
    group = {"group": "pair", "task": [CHOICE], "aggregate_metric_list": [mean]}
    (folder / "pair.yaml").write_text(json.dumps(group))
    found = ours("llama-bpe", folder, ["pair"])
    assert set(found) == {CHOICE, "pair"}
    assert found["pair"].score == found[CHOICE].metrics["acc"]


def test_groups_without_a_score_are_their_tasks(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path)
    (folder / "all.yaml").write_text(json.dumps({"group": "all", "task": [CHOICE, ANSWER]}))
    assert set(ours("llama-bpe", folder, ["all"], limit=2)) == {CHOICE, ANSWER}


def test_a_character_outside_the_vocabulary_is_named(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path, answers=[("ünknown", "a")])
    with pytest.raises(UserError, match=r"the character 'ü' .* is not in the vocabulary"):
        ours("gpt2-char", folder, [ANSWER])


def test_unknown_and_broken_tasks_are_user_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fledge.tasks import harness

    manager = harness.TaskManager
    monkeypatch.setattr(harness, "TaskManager", lambda **options: manager(**{**options, "include_defaults": False}))
    folder = write_tasks(tmp_path)
    for wrong, right in (("tiny_choise", CHOICE), ("agreemnt", "agreement")):
        with pytest.raises(UserError, match=f"unknown task '{wrong}'") as caught:
            ours("llama-bpe", folder, [wrong])
        assert caught.value.hint == f"did you mean '{right}'?"
    with pytest.raises(UserError, match="is not a folder"):
        ours("llama-bpe", folder / "missing", [CHOICE])
    (folder / f"{CHOICE}.jsonl").unlink()
    with pytest.raises(UserError, match=f"cannot run {CHOICE}"):
        ours("llama-bpe", folder, [CHOICE])


def test_without_the_extra_a_command_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "fledge.tasks.harness", raising=False)
    with pytest.raises(UserError, match="unknown task 'hellaswag'") as caught:
        ours("llama-bpe", tmp_path, ["hellaswag"])
    assert "pip install 'fledge[lm-eval]'" in caught.value.hint
