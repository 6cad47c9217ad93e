"""`fledge serve` as a process: its first line, models by name, mistakes, signals, and stock lm-eval through it."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

pytest.importorskip("uvicorn")

from fledge.cli.main import main
from fledge.core.device import Machine
from fledge.evaluation.likelihood import Scorer
from fledge.exchange.huggingface import write_hf_folder
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.tokenizers.hf import HFTokenizer
from forked import Forked
from lm_tasks import ANSWER, CHOICE, COUNTED, MEASURED, TASKS, offline, write_tasks
from serving import END, TEXT
from tiny import wait_until

SECONDS = 60


class Serve:
    """`fledge serve` on a free port; `url` once it is ready."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = Forked(["serve", *words, "--port", "0", "--runs", str(folder)])
        wait_until(lambda: "\n" in self.process.said(self.process.stdout) or self.process.poll() is not None)
        self.url = self.process.said(self.process.stdout).strip()
        assert self.url.startswith("http://127.0.0.1:"), self.log

    @property
    def log(self) -> str:
        return self.process.said(self.process.stderr)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one run, 'small', imported from export/: random weights with clear leads."""
    folder = tmp_path_factory.mktemp("serve")
    tokenizer = HFTokenizer.train([TEXT], 290, END)
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_kv_head": 2, "context": 256, "qk_norm": False}
    model = build(ModelConfig(**shape, vocab_size=tokenizer.vocab_size), 0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    export = folder / "export"
    export.mkdir()
    write_hf_folder(export, model, tokenizer)
    assert main(["import", str(export), "--out", "small", "--runs", str(folder)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        yield folder


def test_two_models_one_stop(runs: Path) -> None:
    serve = Serve(runs, "small", "small@latest", "--slots", "2", "--dtype", "float32")
    names = [model["id"] for model in httpx.get(f"{serve.url}/v1/models").json()["data"]]
    assert names == ["small", "small@latest"]
    body = {"prompt": "the ", "max_tokens": 8, "temperature": 0}
    texts = [httpx.post(f"{serve.url}/v1/completions", json={**body, "model": name}).json() for name in names]
    assert texts[0]["choices"] == texts[1]["choices"]
    assert serve.stop() == 143
    log = serve.log
    assert "model small: context 256, 2 slots" in log
    assert log.count("POST") == 2
    assert "Traceback" not in log


def test_a_second_signal_stops_at_once(runs: Path) -> None:
    serve = Serve(runs, "small", "--slots", "1", "--dtype", "float32")
    body = {"prompt": "the ", "max_tokens": 250, "n": 100, "stream": True}
    with httpx.stream("POST", f"{serve.url}/v1/completions", json=body, timeout=SECONDS) as stream:
        next(stream.iter_raw())
        serve.process.send_signal(signal.SIGINT)
        wait_until(lambda: "stopping" in serve.log)
        assert serve.stop(signal.SIGINT) == 130


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nobody"], "no run 'nobody'"),
        (["small", "small"], "two models would be named 'small'"),
        (["--host", "10.0.0.1"], "needs a token"),
        (["--port", "99999"], "--port cannot be 99999"),
        (["--queue", "-1"], "--queue cannot be -1"),
        (["--slots", "0"], "not a positive integer"),
        (["--token-file", "/no/such/file"], "no such file"),
    ],
)
def test_mistakes(runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert (
        main(["serve", *words, "--runs", str(runs), "--dtype", "float32", *(["--port", "0"] * ("--port" not in words))])
        == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert "hint: " in error


def test_without_the_extra_a_hint_names_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fledge.cli.commands.serve.find_spec", lambda name: name != "uvicorn" or None)
    assert main(["serve", "--runs", str(runs)]) == 2
    assert "hint: pip install 'fledge[serve]'" in capsys.readouterr().err


def test_lm_eval_through_the_server_scores_as_hf_and_our_adapter(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    monkeypatch.setenv("no_proxy", "*")
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    pytest.importorskip("lm_eval.tasks")
    from fledge.runs.run_folder import open_run
    from fledge.tasks.run import run_tasks

    loaded, export = open_run("small", runs).load(), str(runs / "export")
    questions = ["the quick brown", "a lazy dog", "it sleeps until", "over the fox"]
    greedy = {"max_tokens": 8, "temperature": 0, "stop": ["\n", "."]}
    serve = Serve(runs, "small", "--dtype", "float32")
    try:
        texts = [httpx.post(f"{serve.url}/v1/completions", json={"prompt": q, **greedy}).json() for q in questions]
        answers = [text["choices"][0]["text"].strip() for text in texts]
        folder = write_tasks(runs, 12, answers=[*zip(questions, answers, strict=True), ("dog", "wrong")])
        manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)

        def scores(model: str, arguments: dict[str, Any]) -> dict[str, dict[str, float]]:
            options: dict[str, Any] = {"tasks": list(TASKS), "task_manager": manager, "bootstrap_iters": 0}
            return lm_eval.simple_evaluate(model, arguments, batch_size=4, **options)["results"]

        address = {"base_url": f"{serve.url}/v1/completions", "model": "small", "tokenizer": export, "max_length": 257}
        served = scores("local-completions", {**address, "tokenizer_backend": "huggingface", "num_concurrent": 1})
    finally:
        assert serve.stop() == 143
    theirs = scores("hf", {"pretrained": export, "device": "cpu", "dtype": "float32"})
    scorer = Scorer(loaded.model, loaded.tokenizer, Machine("cpu", "float32"))
    ours = {each.task: each.metrics for each in run_tasks(TASKS, scorer, task_folder=folder)}
    for task in TASKS:
        for key in COUNTED.get(task, ()):
            assert served[task][key] == theirs[task][key] == ours[task][key.removesuffix(",none")], key
        for key in MEASURED.get(task, ()):
            expected = pytest.approx(theirs[task][key], rel=1e-4)
            assert served[task][key] == expected, key
            assert ours[task][key.removesuffix(",none")] == expected, key
    assert 0 < served[CHOICE]["acc,none"] < 1, "else the test would prove little"
    assert served[ANSWER]["exact_match,none"] == pytest.approx(4 / 5)
