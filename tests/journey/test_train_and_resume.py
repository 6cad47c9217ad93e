"""Training is deterministic; stopped or killed at any moment and resumed, it gives the same bits."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.checkpoint import async_saver, store
from fledge.cli.main import main
from fledge.tokenizers.base import save_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tracking.events import Event, Metrics
from fledge.training import recorder, setup

Outcome = Callable[[Path], dict[str, Any]]
Unbroken = Callable[..., dict[str, Any]]
Ended = Callable[..., tuple[int, str]]
DROPOUT = ("--model.dropout", "0.3")
HALF = ("--train.dtype", "float16")
# The schedule of whole epochs, a rate that lags behind, decay on all, and clipping after every micro-batch.
BY_EPOCH = ("--train.batch", "64", "--optim.schedule", "epoch_cosine", "--optim.warmup", "from_zero",
            "--optim.lag", "true", "--optim.decay", "all", "--train.micro_batch", "32", "--train.grad_clip", "0.1",
            "--train.clip_each", "micro_batch")  # fmt: skip
MUON = ("--optim.optimizer", "muon", "--model.bigram_rows", "64")
CHARACTERS = ("--tokenizer.kind", "char")
LONG = ("--train.steps", "160", "--train.save_every", "30", "--train.eval_every", "50", "--train.sample_every", "80")


@pytest.mark.parametrize("settings", [(), DROPOUT], ids=["plain", "dropout"])
def test_same_seed_gives_the_same_bits(home, outcome_of: Outcome, settings: tuple[str, ...]) -> None:
    one = outcome_of(home.train("one", *settings))
    torch.rand(17)
    assert outcome_of(home.train("two", *settings)) == one


@pytest.mark.parametrize("settings", [(), DROPOUT], ids=["plain", "dropout"])
def test_other_seed_gives_other_weights(home, outcome_of: Outcome, settings: tuple[str, ...]) -> None:
    one = outcome_of(home.train("one", *settings))
    assert outcome_of(home.train("two", *settings, "--train.seed", "7"))["model"] != one["model"]


@pytest.mark.parametrize("micro_batch", ["1", "2", "auto"])
def test_micro_batch_does_not_change_the_result(home, micro_batch: str) -> None:
    losses = []
    for name, words in (("whole", ()), ("pieces", ("--train.micro_batch", micro_batch))):
        assert home.do("eval", str(home.train(name, *words)), "--json") == 0
        state = json.loads((max((home.runs / name / "checkpoints").glob("step-*")) / "state.json").read_text())
        losses.append(state["val_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


@pytest.mark.parametrize(("micro_batch", "saved"), [("auto", {"size": 2}), ("1", None)])
def test_auto_micro_batch_is_restored_on_resume(
    home, outcome_of: Outcome, monkeypatch: pytest.MonkeyPatch, micro_batch: str, saved: dict[str, int] | None
) -> None:
    """More free memory than before the interruption changes no bit; a fixed micro-batch is not saved."""
    monkeypatch.setattr(setup, "estimate", lambda *_, **__: 2)
    words = ("--train.micro_batch", micro_batch, "--train.keep_last", "9")
    unbroken = outcome_of(home.train("unbroken", *words))
    home.train("broken", *words)
    monkeypatch.setattr(setup, "estimate", lambda *_, **__: 4)
    assert home.do("resume", "broken@3") == 0
    again = outcome_of(home.runs / "broken")
    assert (again["model"], again["optimizer"]) == (unbroken["model"], unbroken["optimizer"])
    last = max((home.runs / "broken" / "checkpoints").glob("step-*"))
    assert json.loads((last / "state.json").read_text())["components"].get("micro_batch") == saved


def test_evaluating_more_often_does_not_change_the_result(home, outcome_of: Outcome) -> None:
    one = outcome_of(home.train("one", *DROPOUT))
    looks = ("--train.eval_every", "1", "--train.sample_every", "1", "--train.save_every", "1")
    two = outcome_of(home.train("two", *DROPOUT, *looks))
    assert (one["model"], one["optimizer"], one["rng"]) == (two["model"], two["optimizer"], two["rng"])


@pytest.mark.parametrize(
    "settings", [(), DROPOUT, HALF, MUON, BY_EPOCH], ids=["plain", "dropout", "half precision", "muon", "by epoch"]
)
def test_resume_from_earlier_checkpoint_is_bit_identical(home, outcome_of: Outcome, settings: tuple[str, ...]) -> None:
    unbroken = home.train("unbroken", *settings, "--train.keep_last", "9")
    shutil.copytree(unbroken, home.runs / "broken")
    for step in ("6", "3"):
        torch.rand(5)
        assert home.do("resume", f"broken@{step}") == 0
        assert outcome_of(home.runs / "broken") == outcome_of(unbroken)


@pytest.mark.parametrize("settings", [(), DROPOUT], ids=["plain", "dropout"])
def test_resume_after_sigkill_is_bit_identical(
    home, outcome_of: Outcome, unbroken: Unbroken, ended: Ended, settings: tuple[str, ...]
) -> None:
    process = home.start(home.training("broken", *settings, *LONG))
    broken = home.runs / "broken"
    code, _ = ended(process, broken, 47)
    assert code == -signal.SIGKILL
    assert home.do("resume", "broken") == 0
    assert outcome_of(broken) == unbroken(*settings, *LONG)
    assert not list(broken.rglob(".partial*"))


def test_run_killed_before_first_checkpoint_starts_again(
    home, outcome_of: Outcome, unbroken: Unbroken, ended: Ended
) -> None:
    late = (*LONG, "--train.save_every", "160", "--train.eval_every", "0")
    ended(home.start(home.training("broken", *late)), home.runs / "broken", 5)
    assert home.do("resume", "broken") == 0
    assert outcome_of(home.runs / "broken") == unbroken(*late)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stop_signal_saves_and_resume_is_bit_identical(
    home, outcome_of: Outcome, unbroken: Unbroken, ended: Ended, number: int, status: int
) -> None:
    broken = home.runs / "broken"
    code, said = ended(home.start(home.training("broken", *DROPOUT, *LONG)), broken, 20, number)
    assert code == status, said
    assert f"fledge resume {broken}" in said
    assert "Traceback" not in said
    saved = json.loads((max((broken / "checkpoints").glob("step-*")) / "state.json").read_text())
    events = [json.loads(line) for line in (broken / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "Ended"
    assert events[-1]["reason"] == "interrupted"
    assert saved["step"] == events[-1]["step"] >= 20
    assert home.do("resume", "broken") == 0
    assert outcome_of(broken) == unbroken(*DROPOUT, *LONG)


def test_loss_falls(trained) -> None:
    events = [json.loads(line) for line in (trained.runs / "bird" / "events.jsonl").read_text().splitlines()]
    losses = [event["values"]["val/loss"] for event in events if "val/loss" in event.get("values", ())]
    assert losses[-1] < losses[0] - 0.5


def test_run_folder_is_complete_and_has_no_pickle(trained) -> None:
    run = trained.runs / "bird"
    names = {"config.toml", "run.json", "tokenizer.json", "metrics.csv", "events.jsonl", "samples.md", "checkpoints"}
    assert {path.name for path in run.iterdir()} - {".lock"} == names
    for path in run.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert path.suffix in {".toml", ".json", ".csv", ".jsonl", ".md", ".safetensors"} or path.name == ".lock", (
                path
            )
            assert not content.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), path
            assert b"torch._utils" not in content, path
            assert b"ctorch\n" not in content, path
    facts = json.loads((run / "run.json").read_text())
    assert {"fledge", "torch", "python", "commit", "dataset_sha256", "tokenizer_sha256", "started"} <= facts.keys()


def test_json_of_train_is_one_document(home, capsys: pytest.CaptureFixture[str]) -> None:
    home.train("bird", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["run"] == "bird"
    assert answer["step"] == 12
    assert Path(answer["folder"]) == home.runs / "bird"
    assert answer["val_loss"] > 0


def test_finished_run_is_not_resumed(own, outcome_of: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    before = outcome_of(own.runs / "bird")
    assert own.do("resume", "bird") == 2
    assert "'bird' is finished" in capsys.readouterr().err
    assert outcome_of(own.runs / "bird") == before


def test_run_with_changed_dataset_is_not_resumed(home, outcome_of: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do("prepare", str(home.text), "--out", str(home.folder / "data"), *CHARACTERS) == 0
    run = home.train("bird", "--data.path", str(home.folder / "data"), "--train.keep_last", "9")
    before = outcome_of(run)
    shutil.rmtree(home.folder / "data")
    (home.text / "0.txt").write_text("the fox again.\n" * 60)
    assert home.do("prepare", str(home.text), "--out", str(home.folder / "data"), *CHARACTERS) == 0
    assert home.do("resume", "bird@6") == 2
    assert "not the one" in capsys.readouterr().err
    assert outcome_of(run) == before


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_damaged_newest_checkpoint_falls_back(
    own, outcome_of: Outcome, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = own.runs / "bird"
    whole = outcome_of(run)
    file = max((run / "checkpoints").glob("step-*")) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    assert own.do("resume", "bird") == 0
    said = capsys.readouterr().err
    assert f"{file} is damaged" in said
    assert "after step 20" in said
    assert outcome_of(run) == whole


def test_checkpoint_by_step_is_used_or_refused(own, outcome_of: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    before = outcome_of(own.runs / "bird")
    assert own.do("resume", "bird@19") == 2
    assert "no checkpoint '19'" in capsys.readouterr().err
    for folder in (own.runs / "bird" / "checkpoints").iterdir():
        os.truncate(folder / "model.safetensors", 10)
    before["model"] = outcome_of(own.runs / "bird")["model"]
    assert own.do("resume", "bird@20") == 2
    assert "step-00000020" in capsys.readouterr().err
    assert outcome_of(own.runs / "bird") == before


def test_runs_are_not_overwritten_but_numbered(home, capsys: pytest.CaptureFixture[str]) -> None:
    home.train("bird")
    capsys.readouterr()
    assert home.do("train", str(home.toml), "--run", "bird", "--data.corpus", str(home.text)) == 2
    assert f"fledge resume {home.runs}/bird" in capsys.readouterr().err
    for _ in range(2):
        assert home.do("train", str(home.toml), "--data.corpus", str(home.text)) == 0
    assert {path.name for path in home.runs.iterdir()} == {"bird", "tiny", "tiny-2"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--train.stepz", "3"), "train.stepz"),
        (("--train.batch", "many"), "train.batch"),
        (("--model.context", "100000"), "model.context"),
        (("--model.vocab_size", "3"), "model.vocab_size"),
        (("--track.prompt", "日"), "日"),
        (("--track.temperature", "-1"), "temperature"),
        (("--data.val", "0", "--track.sample_tokens", "-5"), "sample_tokens"),
        (("--data.path", "no/such/data"), "no/such/data"),
    ],
)
def test_refusal_leaves_no_run_folder(
    home, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], named: str
) -> None:
    assert main_says(home, capsys, words).count(named) >= 1
    assert not home.runs.exists() or not list(home.runs.iterdir())


def main_says(home, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> str:  # type: ignore[no-untyped-def]
    capsys.readouterr()
    assert main(home.training("bad", *words)) == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert "hint: " in said
    return said


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "-x", "a@b", "", "a\nb"])
def test_run_name_cannot_be_a_path_or_option(home, capsys: pytest.CaptureFixture[str], name: str) -> None:
    words = ["train", str(home.toml), f"--run={name}", "--data.corpus", str(home.text), "--runs", str(home.runs)]
    assert main(words) == 2
    assert "cannot be named" in capsys.readouterr().err
    assert not home.runs.exists()


def test_training_without_validation_split(home, capsys: pytest.CaptureFixture[str]) -> None:
    run = home.train("bird", "--data.val", "0", "--json")
    assert json.loads(capsys.readouterr().out)["val_loss"] is None
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000009", "step-00000012"]


def test_model_vocabulary_may_exceed_the_tokenizer(home) -> None:
    home.train("bird", "--model.vocab_size", "200")
    assert home.do("generate", "bird", "--tokens", "80", "--temperature", "3") == 0


def test_tokenizer_settings_do_not_apply_to_a_prepared_path(home, capsys) -> None:
    prepared = home.folder / "prepared"
    assert main(["prepare", str(home.text), "--out", str(prepared), "--tokenizer.kind", "char"]) == 0
    home.train("bird", "--data.path", str(prepared), "--tokenizer.kind", "bpe", "--tokenizer.vocab_size", "4000")
    assert home.do("generate", "bird", "--tokens", "3") == 0
    capsys.readouterr()
    assert home.do("resume", "bird") == 2
    assert "is finished" in capsys.readouterr().err


def test_nan_loss_ends_the_run_with_advice(home, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do("train", str(home.toml), "--run", "wild", "--data.corpus", str(home.text),
                   "--optim.lr", "1e30", "--optim.min_lr", "1e29", "--train.eval_every", "0",
                   "--train.sample_every", "0", "--train.save_every", "50", "--train.steps", "50") == 2  # fmt: skip
    said = capsys.readouterr().err
    assert "the gradient became nan at step 2" in said
    assert "--optim.lr" in said
    assert list((home.runs / "wild" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("look", ["eval_every", "sample_every", "save_every"])
def test_non_finite_weights_are_not_saved(home, capsys: pytest.CaptureFixture[str], look: str) -> None:
    """The loss of a step is computed before its update, so it is still finite."""
    looks = {"eval_every": "0", "sample_every": "0", "save_every": "1", look: "1"}
    words = [word for name, value in looks.items() for word in (f"--train.{name}", value)]
    rate = ("--optim.lr", "3e38", "--optim.warmup_steps", "0", "--optim.weight_decay", "10")
    assert main(home.training("wild", *words, "--train.steps", "1", *rate)) == 2
    *_, error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert "--optim.lr" in hint or "RUN@best" in hint
    assert not list((home.runs / "wild").glob("checkpoints/step-*"))


class Stops:
    """Send SIGINT to this process."""

    def __init__(self, event: str, step: int) -> None:
        self.when = (event, step)

    def record(self, event: Event) -> None:
        names = event.values if isinstance(event, Metrics) else [type(event).__name__]
        if any((name, event.step) == self.when for name in names):
            self.when = ("", 0)  # once: a second signal would end this process
            os.kill(os.getpid(), signal.SIGINT)

    def close(self) -> None: ...


def test_damaged_checkpoint_does_not_replace_a_whole_one(home, monkeypatch: pytest.MonkeyPatch) -> None:
    rare = ("--train.eval_every", "0", "--train.save_every", "3")
    run = home.train("bird", *rare, "--train.keep_last", "1")
    many = home.train("many", *rare, "--train.keep_last", "9")
    shutil.copytree(many / "checkpoints" / "step-00000003", run / "checkpoints" / "step-00000003")
    os.truncate(run / "checkpoints" / "step-00000012" / "model.safetensors", 100)
    usual = recorder.build_sinks
    monkeypatch.setattr(recorder, "build_sinks", lambda *about: [*usual(*about), Stops("train/loss", 7)])
    assert home.do("resume", "bird", "--allow-changes") == 130
    assert store.find_checkpoint(run / "checkpoints")[0].step == 7


def test_nanogpt_bin_files_train_resume_and_evaluate(home, outcome_of: Outcome) -> None:
    tokenizer = CharTokenizer(sorted(set("".join(path.read_text() for path in home.text.iterdir()))))
    save_tokenizer(tokenizer, home.folder / "letters.json")
    ids = tokenizer.encode("".join(path.read_text() for path in sorted(home.text.iterdir())))
    (home.folder / "bins").mkdir()
    for name, part in (("train", ids[:-700]), ("val", ids[-700:])):
        part.astype("<u2").tofile(home.folder / "bins" / f"{name}.bin")
    foreign = ("--data.path", str(home.folder / "bins"), "--tokenizer.file", str(home.folder / "letters.json"))
    run = home.train("bird", *foreign)
    whole = outcome_of(run)
    assert home.do("resume", "bird@9") == 0
    assert outcome_of(run) == whole
    assert home.do("eval", "bird") == 0


@pytest.mark.parametrize(
    ("event", "step"),
    [
        ("Started", 0),
        ("val/loss", 0),
        ("train/loss", 6),
        ("val/loss", 4),
        ("Sample", 6),
        ("Saved", 9),
        ("val/loss", 12),
    ],
)
def test_signal_during_evaluation_does_not_change_the_result(
    home, outcome_of: Outcome, unbroken: Unbroken, monkeypatch: pytest.MonkeyPatch, event: str, step: int
) -> None:
    """Evaluating and sampling stop at once; after resuming, the pending hooks of that step run first."""
    usual = recorder.build_sinks
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "build_sinks", lambda *about: [*usual(*about), Stops(event, step)])
        if event == "Saved":  # which is heard of when the disk is done: here, where memory has no room, at once
            patch.setattr(async_saver, "free_memory", lambda _: 0)
        assert main(home.training("bird")) == 130
    assert store.find_checkpoint(home.runs / "bird" / "checkpoints")[0].step == step
    assert home.do("resume", "bird") == 0
    assert outcome_of(home.runs / "bird") == unbroken()
