"""`fledge demo --align` with a tiny model on a tiny text: every stage, its continuation, and what it prints."""

import json
import shutil
from pathlib import Path

import pytest

from fledge.alignment.tasks.registry import find_task
from fledge.cli.commands.demo import describe_aligned
from fledge.cli.main import main
from fledge.core.config import merge
from fledge.core.errors import Interrupted, UserError
from fledge.recipes import demo_align as demo
from fledge.recipes.preferences import Preferences
from tiny import write_text

TINY = {
    "tokenizer": {"vocab_size": 300},
    "model": {"n_layer": 1, "n_embd": 16, "n_head": 2, "context": 160},
    "train": {"batch": 4, "dtype": "float32"},
    "track": {"sample_tokens": 4, "prompt": "the"},
}


def write_pairs(_init: str, _data: list[str], path: Path, *_: object) -> Preferences:
    """In place of answers of the model, which are too bad to differ."""
    examples = find_task("style").examples(seed=0, count=40, split="train")
    rows = [
        {"prompt": each.messages[0]["content"], "chosen": each.chosen, "rejected": each.rejected} for each in examples
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Preferences(str(path), 40, 40, 1.0, 0.0)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    data = {"data": {"corpus": str(write_text(tmp_path / "text")), "val": 0.1}}
    monkeypatch.setattr(demo, "LLAMA", merge(merge(demo.LLAMA, TINY), data))
    for name, value in {"PRETRAINING": 0.0, "MAX_SCALE": 0.02, "MEASURED": 4}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "make_preference_file", write_pairs)
    return tmp_path / "runs"


def test_demo_runs_every_stage_and_continues(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Interrupted(2, "fledge resume demo-ppo")

    with monkeypatch.context() as patch:
        original = demo.align
        patch.setattr(
            demo, "align", lambda method, *a, **k: (stopped if method == "ppo" else original)(method, *a, **k)
        )
        with pytest.raises(Interrupted) as caught:
            demo.demo_align(1.0, runs)
    assert (caught.value.code, caught.value.resume_with) == (130, "fledge demo --align --minutes 1")
    assert not (runs / "demo-ppo").exists()
    shutil.rmtree(runs / "demo-dpo" / "checkpoints" / "step-00000004")  # as if it had been stopped in the middle
    capsys.readouterr()

    found = demo.demo_align(1.0, runs, runs.parent / "out")
    told = capsys.readouterr().err
    assert told.count("is trained already") == 3
    assert "resuming 'demo-dpo' after step 3" in told
    assert [each.run for each in found.stages] == [
        demo.BASE,
        demo.SFT,
        demo.PAIRS,
        demo.REWARD,
        demo.DPO,
        demo.PPO,
        demo.GRPO,
    ]
    assert [each.reward is None for each in found.stages] == [False, False, True, True, False, False, False]
    assert len(found.answers) == demo.SHOWN
    assert set(found.answers[0].answers) == {demo.BASE, demo.SFT, demo.DPO, demo.PPO, demo.GRPO}
    assert found.picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [each.name for each in found.exported] == ["hf", "gguf"]
    assert json.loads((runs.parent / "out" / "hf" / "config.json").read_text())["model_type"] == "llama"
    text = describe_aligned(found)
    assert f"{demo.BASE:<22}   done before" in text
    assert f"fledge chat {runs / demo.GRPO}" in text


def test_demo_with_impossible_arguments_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--minutes"):
        demo.demo_align(0.1, tmp_path)
    with pytest.raises(UserError, match="already exists"):
        demo.demo_align(1.0, tmp_path, tmp_path)
    assert main(["demo", "--export", "out", "--runs", str(tmp_path)]) == 2
    assert "--export belongs to --align" in capsys.readouterr().err
