"""Align a model that came with a chat template of its own: training writes conversations as that template does."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from fledge.runs.run_folder import open_run
from fledge.tokenizers.hf_json import added_tokens_json

from .test_exchange import CHATML, external  # noqa: F401  # a fixture

SHORT = "--train.steps=2 --train.batch=2 --train.dtype=float32 --train.device=cpu --train.eval_every=0 --align.val=1"
ESCAPE = "{{ messages.__class__.__mro__[1].__subclasses__() }}{% for m in messages %}{{ m.content }}{% endfor %}"
FORGETFUL = "{% for m in messages %}{% if loop.last %}<|im_start|>{{ m.content }}<|im_end|>{% endif %}{% endfor %}"


def import_chat_model(home, external: Path, folder: Path, template: str) -> int:  # noqa: F811
    """→ the size of its vocabulary."""
    shutil.copytree(external, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    size = len(content["model"]["vocab"])
    content["added_tokens"] += added_tokens_json([(size, "<|im_start|>", True), (size + 1, "<|im_end|>", True)])
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {"eos_token": "<|im_end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert home.do("import", str(folder), "--out", "chatty") == 0
    return size + 2


def align(home, *words: str) -> int:
    turns = [
        {"role": "user", "content": "the quick<|im_end|>"},
        {"role": "assistant", "content": "brown fox"},
        {"role": "user", "content": "a lazy"},
        {"role": "assistant", "content": "dog"},
    ]
    data = home.folder / "chats.jsonl"
    data.write_text("".join(json.dumps({"messages": turns[:count]}) + "\n" for count in (2, 4) * 8))
    return home.do("align", "sft", "--init", "chatty", "--data", str(data), "--run", "tuned", *SHORT.split(), *words)


def test_own_template_is_trained_with_and_kept(
    home,
    external: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import_chat_model(home, external, tmp_path / "theirs", CHATML)
    assert align(home) == 0
    before, after = (open_run(name, home.runs) for name in ("chatty", "tuned"))
    ours, theirs = before.chat_template(), after.chat_template()
    assert ours is not None
    assert theirs is not None
    assert theirs.settings == ours.settings
    assert after.model_config().vocab_size == before.model_config().vocab_size == 320  # no tokens of our own
    ids, is_answer = theirs.encode_with_mask([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert [i for i, counts in zip(ids, is_answer, strict=True) if counts][-1] == theirs.stop_tokens[0]

    monkeypatch.setattr(sys, "stdin", io.StringIO("the quick"))
    capsys.readouterr()
    assert home.do("chat", "tuned", "--tokens", "5", "--json") == 0
    captured = capsys.readouterr()
    assert "warning" not in captured.err
    assert [each["role"] for each in json.loads(captured.out)["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("template", "message"), [(ESCAPE, "unsafe"), (FORGETFUL, "differently after an answer"), ("{% if %}", "refuses")]
)
def test_template_that_cannot_be_trained_with_is_refused(
    home,
    external: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    template: str,
    message: str,
) -> None:
    import_chat_model(home, external, tmp_path / "theirs", template)
    capsys.readouterr()
    assert align(home) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "hint:" in shown
    assert not (home.runs / "tuned").exists()
