"""The origin of a text: a planted passage, its document, the steps that learned it, and the loss around them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import fledge
from fledge.cli.main import main
from fledge.core.errors import UserError
from fledge.core.files import to_json
from fledge.insight.build_suffix_array import ensure_suffix_array
from fledge.insight.origin import MAX_TOKENS, TextOrigin, trace, with_losses
from fledge.insight.provenance import Provenance
from fledge.insight.suffix_array import SuffixArray
from fledge.insight.verdict import chance_length
from fledge.runs.run_folder import RunFolder, open_run
from tiny import TINY_TOML, write_text

pytest.importorskip("pydivsufsort")
PASSAGE = "<b>zephyrs & vexing jinx</b> from quartz mountains beyond every known valley"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run `bird` whose text has the passage once, in one of its documents."""
    folder = tmp_path_factory.mktemp("origin")
    text = write_text(folder / "text")
    file = text / "1.txt"
    lines = file.read_text().split("\n")
    file.write_text("\n".join([*lines[:12], PASSAGE, *lines[12:]]))
    (folder / "tiny.toml").write_text(TINY_TOML.replace("save_every = 3", "save_every = 6"))
    words = ("--train.steps", "24", "--train.keep_last", "10", "--data.split_by", "tail")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        command = ["train", str(folder / "tiny.toml"), "--run", "bird", "--data.corpus", str(text), *words]
        assert main([*command, "--runs", str(folder / "runs")]) == 0
    return folder


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(folder / "cache"))


@pytest.fixture
def run(folder: Path) -> RunFolder:
    return open_run("bird", folder / "runs")


@pytest.fixture
def provenance(run: RunFolder) -> Provenance:
    return Provenance(run)


@pytest.fixture
def array(provenance: Provenance) -> SuffixArray:
    return ensure_suffix_array(provenance.dataset)


@pytest.fixture
def planted(provenance: Provenance, array: SuffixArray) -> TextOrigin:
    return trace(provenance, array, PASSAGE)


def test_planted_passage_is_found_in_its_document(provenance: Provenance, planted: TextOrigin) -> None:
    assert (planted.verdict, planted.copied, planted.step) == ("copied", 1, 24)
    [match] = planted.matches
    [place] = match.occurrences
    assert (match.text, match.count, match.ordinary, place.text) == (PASSAGE, 1, False, PASSAGE)
    split = provenance.dataset.split("train")
    starts = [*split.document_starts().tolist(), len(split)]
    document = provenance.dataset.tokenizer.decode(
        split.read(starts[place.document], starts[place.document + 1] - starts[place.document]).tolist()
    )
    assert document[place.offset :].startswith(PASSAGE)
    assert document[: place.offset].endswith(place.before)
    assert document[place.offset + len(PASSAGE) :].startswith(place.after)


def test_steps_are_those_whose_batches_have_the_passage(provenance: Provenance, planted: TextOrigin) -> None:
    [match] = planted.matches
    first, stop = match.occurrences[0].position, match.occurrences[0].position + len(PASSAGE)
    expected = [
        step
        for step in range(1, 25)
        if any(sample.start + 1 < stop and sample.start + 16 >= first for sample in provenance.step(step))
    ]
    assert match.steps == expected != []


def test_loss_before_and_after_are_those_of_the_checkpoints(
    provenance: Provenance, array: SuffixArray, planted: TextOrigin
) -> None:
    [match] = with_losses(planted, provenance, array).matches
    assert [each.step for each in match.losses] == [4, 6, 8, 12, 16, 18, 20, 24]
    before, after = match.loss_around(7)
    assert before is not None
    assert after is not None
    assert (before.step, after.step) == (6, 8)
    assert match.loss_around(3) == (None, match.losses[0])
    ids = torch.from_numpy(provenance.dataset.tokenizer.encode(PASSAGE)[-16:].astype("int64"))[None]
    with torch.no_grad():
        logits = provenance.run.load().model(ids)
    expected = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert match.losses[-1].loss == pytest.approx(float(expected), abs=1e-5)


def test_a_text_of_its_own_is_new(provenance: Provenance, array: SuffixArray) -> None:
    origin = trace(provenance, array, "vvvv zzzz qqqq xxxx jjjj wwww kkkk bbbb vvvv zzzz")
    assert (origin.verdict, origin.copied) == ("new", 0)
    assert all(match.ordinary for match in origin.matches)


def test_a_copied_half_is_partly_copied(provenance: Provenance, array: SuffixArray) -> None:
    origin = trace(provenance, array, PASSAGE[:40] + "zzzz qqqq xxxx jjjj wwww kkkk bbbb vvvv zzzz")
    assert origin.verdict == "partly copied"
    assert (origin.matches[0].first, origin.matches[0].stop) == (0, 40)
    assert "".join(origin.tokens).startswith(PASSAGE[:40])


def test_a_passage_that_no_step_has_learned_is_not_copied(folder: Path, array: SuffixArray) -> None:
    provenance = Provenance(open_run("bird@4", folder / "runs"))
    length = len(array.split)
    unlearned = next(at for at in range(0, length, 10) if not provenance.exposures(at, at + 80, 4))
    text = provenance.dataset.tokenizer.decode(array.split.read(unlearned, 80).tolist())
    origin = trace(provenance, array, text)
    assert (origin.verdict, origin.copied, origin.matches[0].steps) == ("new", 0, [])
    assert origin.explanation.startswith("100% of the text stands word for word in the training data")
    assert "no step up to 4 has learned" in origin.explanation
    assert trace(Provenance(open_run("bird@24", folder / "runs")), array, text, 9).verdict == "copied"


def test_what_a_run_began_with_is_named(run: RunFolder, array: SuffixArray, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "second")
    second = open_run(str(tmp_path / "second"), tmp_path)
    second.update_metadata({"init": "base"})
    origin = trace(Provenance(second), array, PASSAGE, 9)
    assert "began with the weights of 'base'" in origin.caveat
    assert "unseen" not in origin.explanation, "the minimum was given"


def test_ids_are_taken_instead_of_text(provenance: Provenance, array: SuffixArray, planted: TextOrigin) -> None:
    assert trace(provenance, array, provenance.dataset.tokenizer.encode(PASSAGE).tolist()) == planted


def test_minimum_is_what_unseen_text_rarely_has(provenance: Provenance, array: SuffixArray) -> None:
    count, minimum = chance_length(array, provenance.dataset, 60)
    val = provenance.dataset.split("val")
    starts = [(len(val) - 60) * number // (count - 1) for number in range(count)]
    longest = [int(array.longest_matches(val.read(start, 60).tolist()).max()) for start in starts]
    assert count == min(20, len(val) // 60)
    assert sum(length >= minimum for length in longest) <= count // 20 or minimum == 50
    assert "unseen texts of this length" in trace(provenance, array, PASSAGE).explanation


def test_unknown_characters_match_nothing(provenance: Provenance, array: SuffixArray) -> None:
    origin = trace(provenance, array, f"Ω{PASSAGE}🐣")
    assert [(match.first, match.stop) for match in origin.matches] == [(1, 1 + len(PASSAGE))]
    assert "".join(origin.tokens) == f"Ω{PASSAGE}🐣"


def test_a_short_text_says_nothing(provenance: Provenance, array: SuffixArray) -> None:
    origin = trace(provenance, array, "the")
    assert origin.verdict == "too short"
    assert origin.matches[0].ordinary


@pytest.mark.parametrize(("text", "error"), [("", "empty"), ("a " * MAX_TOKENS, "at most 4,096")])
def test_empty_and_endless_texts_are_refused(provenance: Provenance, array: SuffixArray, text: str, error: str) -> None:
    with pytest.raises(UserError, match=error):
        trace(provenance, array, text)


def test_a_removed_checkpoint_is_left_out(
    folder: Path, tmp_path: Path, planted: TextOrigin, array: SuffixArray
) -> None:
    shutil.copytree(folder / "runs" / "bird", tmp_path / "bird")
    (tmp_path / "bird" / "checkpoints" / "step-00000012" / "model.safetensors").unlink()
    provenance = Provenance(open_run(str(tmp_path / "bird"), tmp_path))
    assert 12 not in [each.step for each in with_losses(planted, provenance, array).matches[0].losses]


def refused(run: RunFolder) -> UserError:
    with pytest.raises(UserError) as caught:
        Provenance(run)
    return caught.value


def test_an_aligned_run_names_the_run_that_learned_text(tmp_path: Path) -> None:
    for name, init in (("sft", "base"), ("dpo", "sft@best")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text(f'[align]\nmethod = "{name}"\n')
        (tmp_path / name / "run.json").write_text(to_json({"init": init}))
    error = refused(RunFolder(tmp_path / "dpo"))
    assert "learned text as 'base'" in error.message
    assert "fledge data find base" in error.hint


def test_an_aligned_run_that_has_taken_the_name_of_its_beginning_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.toml").write_text('[align]\nmethod = "sft"\n')
    (tmp_path / "base" / "run.json").write_text(to_json({"init": "base@4"}))
    assert "learned text as 'base@4'" in refused(RunFolder(tmp_path / "base")).message


def test_an_imported_run_and_a_missing_dataset_are_refused_in_words(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs" / "bird", tmp_path / "bird")
    run = RunFolder(tmp_path / "bird")
    (folder / "cache" / "datasets").rename(folder / "cache" / "elsewhere")
    try:
        error = refused(run)
    finally:
        (folder / "cache" / "elsewhere").rename(folder / "cache" / "datasets")
    assert "is gone" in error.message
    run.update_metadata({"imported": "gpt2"})
    assert "not trained here" in refused(run).message


def test_find_command_prints_words_or_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "find", "bird@24", PASSAGE, "--runs", str(folder / "runs")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("copied: 100%")
    assert f"[{PASSAGE}]" in shown
    assert "A match is not a cause" in shown
    assert main([*command, "--json", "--no-loss", "--min", "7"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["minimum"], found["matches"][0]["losses"]) == ("copied", 7, [])
    assert main([*command, "--min", "0"]) == 2


def test_api_shows_it_as_html_without_the_tags_of_the_text(folder: Path) -> None:
    shown = fledge.load("bird", runs=folder / "runs").provenance(PASSAGE)._repr_html_()
    assert "Copied" in shown
    assert "<b>zephyrs" not in shown
    assert "&lt;b&gt;zephyrs" in shown
