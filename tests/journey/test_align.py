"""fledge align from the command line: every method on a tiny model, resumed, evaluated, and given bad input."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fledge.cli.main import main
from fledge.core.errors import UserError
from fledge.recipes.align import align
from fledge.recipes.evaluate_alignment import evaluate_alignment
from fledge.recipes.resume import resume
from fledge.runs.run_folder import RunFolder
from fledge.tracking.sinks.csv import read_metrics
from fledge.tracking.sinks.jsonl import read_events
from tiny import TINY_TOML, write_text

METHODS = ("sft", "reward", "dpo", "ppo", "grpo", "reinforce")
SHORT = {
    "align": {"examples": 60, "val": 8},
    "train": {"steps": 4, "batch": 8, "log_every": 1, "eval_every": 2, "sample_every": 4, "dtype": "float32"},
    "track": {"sample_tokens": 8, "statistics": 4},
}
ROLLOUT = {"rollout": {"prompts": 8, "max_tokens": 6, "slots": 8}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With the run `base`: a tiny model that has never seen a conversation."""
    folder = tmp_path_factory.mktemp("align")
    write_text(folder / "text")
    (folder / "text" / "sums.txt").write_text("0 1 2 3 4 5 6 7 8 9 + = \n" * 40)  # the characters of the questions
    (folder / "tiny.toml").write_text(TINY_TOML)
    model = ("--model.n_layer", "1", "--model.n_head", "2", "--model.n_embd", "32", "--model.context", "96")
    train = ("--train.steps", "4", "--run", "base", "--track.sample_tokens", "4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        assert (
            main(
                [
                    "train",
                    str(folder / "tiny.toml"),
                    str(folder / "text"),
                    *model,
                    *train,
                    "--runs",
                    str(folder / "runs"),
                ]
            )
            == 0
        )
        yield folder / "runs"


def settings(method: str, **train: int) -> dict:
    online = method in ("ppo", "grpo", "reinforce")
    return {**SHORT, "train": {**SHORT["train"], **train}, **(ROLLOUT if online else {})}


def weights(run: RunFolder, step: int) -> dict:
    return load_file(run.checkpoints / f"step-{step:08d}" / "model.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_method_trains_resumes_and_evaluates(runs: Path, method: str) -> None:
    whole = align(method, "base", ["addition"], settings(method), runs, name=method)
    assert whole.step == 4
    assert whole.metrics
    run = RunFolder(whole.folder)
    rows = read_metrics(run.folder)
    assert rows.last_step == 4
    assert len(rows.measured("stats/attention_entropy/blocks.0")) == 2, "steps 1 and 4"
    before = weights(run, 4)
    resume(f"{method}@2", runs=runs)
    for name, weight in weights(run, 4).items():
        assert (weight == before[name]).all(), name
    found = evaluate_alignment(RunFolder(run.folder, "latest"))
    assert (found.method, found.step) == (method, 4)
    for name, value in whole.metrics.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_ppo_rolls_back_and_goes_on_with_other_prompts(runs: Path, spoilt: Callable[..., None]) -> None:
    spoilt({5, 6, 7})  # the updates of two rollouts
    result = align("ppo", "base", ["addition"], settings("ppo", steps=10), runs, name="rolled")
    assert result.step == 10
    [event] = [each for each in read_events(result.folder) if each["event"] == "RolledBack"]
    assert (event["step"], event["failed_step"]) == (4, 8)
    assert event["skipped_batches"] == [4, 7]
    before = weights(RunFolder(result.folder), 10)
    resume("rolled@8", runs=runs)
    for name, weight in weights(RunFolder(result.folder), 10).items():
        assert (weight == before[name]).all(), name


def test_align_from_the_command_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("align", "sft", "--init", "base", "--data", "addition", "--lora", "4", "--run", "adapter", "--json")
    short = ("--train.steps", "2", "--align.examples", "40", "--align.val", "4", "--track.sample_tokens", "4")
    assert main([*words, *short, "--runs", str(runs)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["run"], result["method"], result["step"]) == ("adapter", "sft", 2)
    loaded = RunFolder(runs / "adapter").load()
    assert loaded.model.config.lora is None
    assert main(["eval", "adapter", "--runs", str(runs)]) == 0
    assert "perplexity" in capsys.readouterr().out


def test_reward_file_of_another_machine_is_executed_only_when_asked(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came from elsewhere has a reward file that nobody has named on this machine."""
    mark, reward = tmp_path / "executed", tmp_path / "short.py"
    reward.write_text(f"open({str(mark)!r}, 'w').close()\ndef reward(answer):\n    return -len(answer)\n")
    made = align("grpo", "base", ["addition"], settings("grpo"), runs, reward=[f"{reward}=0.5"], name="scored")
    assert (made.folder / "rewards" / "0-short.py").read_bytes() == reward.read_bytes()
    assert len(RunFolder(made.folder).metadata()["reward_sha256"]) == 1
    mark.unlink()
    reward.unlink()
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "another machine"))
    for words in (["resume", "scored@2"], ["eval", "scored"]):
        assert main([*words, "--runs", str(runs)]) == 2
        shown = capsys.readouterr().err
        assert "a program that you have not run on this machine" in shown
        assert "--trust-reward" in shown
        assert not mark.exists()
    before = weights(RunFolder(made.folder), 4)
    assert main(["resume", "scored@2", "--runs", str(runs), "--trust-reward"]) == 0
    assert mark.exists()
    assert all((weights(RunFolder(made.folder), 4)[name] == value).all() for name, value in before.items())
    assert main(["eval", "scored", "--runs", str(runs)]) == 0


def test_tasks_are_listed_with_rewards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", "tasks", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert {"addition", "letter-counting", "spelling", "instructions", "docstrings", "style"} <= found.keys()
    assert all(better > worse for (_, better), (_, worse) in (each["answers"] for each in found.values()))
    assert main(["align", "tasks"]) == 0
    assert found["addition"]["prompt"] in capsys.readouterr().out


def test_pairs_made_by_a_run_train_dpo(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward, pairs = tmp_path / "short.py", tmp_path / "pairs.jsonl"
    reward.write_text("def reward(answer):\n    return -len(answer)\n")
    words = ("align", "pairs", "--init", "base", "--data", "addition", "--reward", str(reward), "--out", str(pairs))
    short = ("--align.examples", "20", "--rollout.max_tokens", "30", "--samples", "6", "--runs", str(runs))
    assert main([*words, *short, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert 0 < made["pairs"] <= made["prompts"] == 20
    assert made["chosen_reward"] > made["rejected_reward"]
    assert main([*words, *short]) == 2
    assert "exists" in capsys.readouterr().err
    layer = {**settings("dpo"), **ROLLOUT}
    result = align("dpo", "base", [str(pairs)], layer, runs, reward=[str(reward)], name="paired")
    assert {"val/accuracy", "val/margin", "val/reward", "val/kl"} <= result.metrics.keys()
    assert 'decoder = "auto"' not in (result.folder / "config.toml").read_text()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("align", "sft", "--init", "nobody", "--data", "addition"), "no run 'nobody'"),
        (("align", "sft", "--init", "base", "--data", "nothing.jsonl"), "nothing.jsonl"),
        (("align", "grpo", "--init", "base", "--data", "addition", "--reward", "none.py"), "no such file: 'none.py'"),
        (("align", "dpo", "--init", "base", "--data", "addition", "--ppo.kl", "1"), "unknown setting 'ppo.kl'"),
        (("align", "sft", "--init", "base", "--data", "addition", "--train.epochs", "2"), "train.epochs"),
        (("align", "sft", "--init", "base", "--data", "addition", "--train.minutes", "2"), "train.minutes"),
        (("align", "sft", "--init", "base", "--data", "addition", "--train.ngram_steps", "5"), "train.ngram_steps"),
        (("align", "sft", "--init", "base", "--data", "addition", "--train.context", "5"), "train.context"),
        (("align", "sft", "--init", "base", "--data", "addition", "--align.init", "x"), "align.init is not set here"),
        (("align", "sft", "--init", "base", "--data", "addition", "--data.stride", "8"), "data.stride has no effect"),
        (("align", "sft", "--init", "base", "--data", "addition", "--train.eval_tokens", "8"), "has no effect"),
        (("align", "sft", "--init", "base", "--data", "addition", "--model.value_head", "true"), "has no effect"),
        (("align", "sftt", "--init", "base", "--data", "addition"), "sftt"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    runs: Path, words: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(runs.iterdir())
    assert main([*words, "--runs", str(runs)]) == 2
    shown = capsys.readouterr().err
    assert error in shown
    assert "hint:" in shown
    assert sorted(runs.iterdir()) == before


def test_resume_refuses_other_initial_weights(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    align("dpo", "base", ["addition"], settings("dpo"), runs, name="moved")
    run = RunFolder(runs / "moved")
    run.update_metadata({"init_sha256": "0" * 64})
    assert main(["resume", "moved@2", "--runs", str(runs)]) == 2
    assert "its weights have changed" in capsys.readouterr().err


def test_resume_refuses_another_plan_of_rollouts(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    align("grpo", "base", ["addition"], settings("grpo"), runs, name="planned")
    words = ("resume", "planned@2", "--grpo.group", "4", "--allow-changes", "--runs", str(runs))
    assert main(words) == 2
    assert "cannot be resumed with a different grpo.group" in capsys.readouterr().err


def rows(path: Path, *records: dict) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_conversations_without_a_question_are_left_out(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"prompt": "1 + 1 =", "completion": "2"}
    silent = {"messages": [{"role": "system", "content": "the"}, {"role": "assistant", "content": "dog"}]}
    with pytest.raises(UserError, match="nothing can be learned from 2 examples of 2 without a question"):
        align("sft", "base", [rows(runs.parent / "silent.jsonl", silent, silent)], settings("sft"), runs, name="silent")
    files = [rows(runs.parent / "asked.jsonl", *[asked] * 3), rows(runs.parent / "one.jsonl", silent)]
    align("sft", "base", files, settings("sft"), runs, name="asked")
    assert "1 example of 4 without a question left out" in capsys.readouterr().err


def test_eval_of_a_run_without_held_out_examples(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows(runs.parent / "few.jsonl", *[{"prompt": "1 + 1 =", "completion": "2"}] * 3)
    align("sft", "base", [file], settings("sft"), runs, name="few")
    assert main(["eval", "few", "--runs", str(runs)]) == 2
    assert "'few' has no held-out examples" in capsys.readouterr().err
