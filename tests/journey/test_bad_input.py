"""Wrong input: one error line, one hint, exit status 2, and no files left behind."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fledge.cli.main import main
from fledge.core.checksums import checked_content, with_checksum
from fledge.datasets import plan

TEXT = "Once upon a time there was a duck, and the duck could write.\n" * 60
# Should one of these runs begin after all, it is over at once.
TINY = [
    *("--model.n_layer", "1", "--model.n_head", "2", "--model.n_embd", "16", "--model.context", "32"),
    *("--train.steps", "1", "--train.batch", "2", "--train.device", "cpu", "--train.dtype", "float32"),
    *("--train.compile", "false", "--tokenizer.kind", "char"),
]
TRAIN = ["train", "small.toml"]
PREPARE = ["--out", "out", "--tokenizer.kind", "char"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a text, a settings file, a tokenizer and a dataset; the cache is beside it."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    (folder / "duck.txt").write_text(TEXT)
    sections: dict[str, list[str]] = {"data": ['corpus = "duck.txt"']}
    for name, value in zip(TINY[::2], TINY[1::2], strict=True):
        section, _, key = name.removeprefix("--").partition(".")
        quoted = value if value[0].isdigit() or value == "false" else f'"{value}"'
        sections.setdefault(section, []).append(f"{key} = {quoted}")
    lines = [line for section, keys in sections.items() for line in (f"[{section}]", *keys)]
    (folder / "small.toml").write_text("\n".join(lines))
    return folder


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


class Refused:
    """Call fledge, check that it refuses, and return its error and hint."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, *argv: str, watch: Path | None = None) -> tuple[str, str]:
        watched = watch or self.folder
        before = listing(watched)
        self.capsys.readouterr()
        code = main(list(argv))
        out, err = self.capsys.readouterr()
        lines = err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        hints = [line for line in lines if line.startswith("hint: ")]
        assert code == 2, err
        assert out == ""
        assert "Traceback" not in err
        assert (len(errors), len(hints)) == (1, 1), err
        assert lines[-2:] == errors + hints, err
        assert len(errors[0]) > len("error: ")
        assert len(hints[0]) > len("hint: ")
        assert listing(watched) == before
        return errors[0], hints[0]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    return Refused(tmp_path, capsys)


def everything_that_reads(source: str) -> list[list[str]]:
    return [
        [*TRAIN, "--data.corpus", source],
        ["prepare", source, *PREPARE],
        ["tokenizer", "train", source, "--kind", "char", "--out", "new.json"],
    ]


# Texts that are none


@pytest.mark.parametrize("reader", range(3), ids=["train", "prepare", "tokenizer"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.txt", b""),
        ("blank.txt", b" \n\t\n"),
        ("mark.txt", b"\xef\xbb\xbf"),
        ("binary.bin", b"\x7fELF\0\0\1"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
    ],
)
def test_file_without_text_is_refused(
    refused: Refused, workplace: Path, reader: int, name: str, content: bytes
) -> None:
    (workplace / name).parent.mkdir(exist_ok=True)
    (workplace / name).write_bytes(content)
    source = Path(name).parts[0]
    error, _ = refused(*everything_that_reads(source)[reader])
    assert source in error


@pytest.mark.parametrize("reader", range(2), ids=["train", "prepare"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin1.txt", "für alle\n".encode("latin1") * 500),
        ("late.txt", b"a" * 20_000 + b"\xff"),
        ("folder/latin1.txt", "für alle\n".encode("latin1")),
    ],
)
def test_invalid_utf8_is_refused_with_strict_errors(
    refused: Refused, workplace: Path, reader: int, name: str, content: bytes
) -> None:
    (workplace / name).parent.mkdir(exist_ok=True)
    (workplace / name).write_bytes(content)
    source = Path(name).parts[0]
    error, _ = refused(*everything_that_reads(source)[reader], "--data.errors", "strict")
    assert source in error
    assert "UTF-8" in error


@pytest.mark.parametrize("reader", range(3), ids=["train", "prepare", "tokenizer"])
@pytest.mark.parametrize("held", [[], ["empty.txt"], ["picture.bin"], [".hidden"]], ids=str)
def test_folder_without_text_is_refused(refused: Refused, workplace: Path, reader: int, held: list[str]) -> None:
    (workplace / "texts").mkdir()
    for name in held:
        (workplace / "texts" / name).write_bytes({"picture.bin": b"\0", ".hidden": b"text"}.get(name, b""))
    error, _ = refused(*everything_that_reads("texts")[reader])
    assert "texts" in error


@pytest.mark.parametrize("reader", range(3), ids=["train", "prepare", "tokenizer"])
@pytest.mark.parametrize("source", ["absent.txt", "absent/", "absent", "pyton", "~nobody-here/x.txt", "", "x" * 300])
def test_missing_text_is_refused(refused: Refused, reader: int, source: str) -> None:
    error, _ = refused(*everything_that_reads(source)[reader])
    assert source in error or "name is too long" in error


@pytest.mark.parametrize("split_by", ["auto", "tail", "document"])
def test_text_shorter_than_the_context_is_refused(refused: Refused, workplace: Path, split_by: str) -> None:
    (workplace / "short.txt").write_text("a short text")
    error, hint = refused(*TRAIN, "--data.corpus", "short.txt", "--data.split_by", split_by)
    assert "token" in error
    assert "33" in error
    assert "text" in hint


# Names


@pytest.mark.parametrize("name", ["", ".", "..", "../out", "a/b", ".hidden", "-x", "a@b", "two\nlines", "x" * 300])
def test_invalid_run_name_is_refused(refused: Refused, name: str) -> None:
    refused(*TRAIN, f"--run={name}")


def test_existing_run_is_refused_and_unchanged(refused: Refused, workplace: Path) -> None:
    (workplace / "runs" / "hamlet").mkdir(parents=True)
    (workplace / "runs" / "hamlet" / "config.toml").write_text("# mine")
    error, hint = refused(*TRAIN, "--run", "hamlet")
    assert "hamlet" in error
    assert "fledge resume hamlet" in hint


@pytest.mark.parametrize(
    ("preset", "near"),
    [("dmo", "demo"), ("nanogpt", "nanogpt"), ("zzz", "demo"), ("absent.toml", ""), ("", "a file")],
)
def test_unknown_preset_suggests_the_nearest(refused: Refused, preset: str, near: str) -> None:
    error, hint = refused("train", preset)
    assert f"'{preset}'" in error
    assert near in hint


@pytest.mark.parametrize("argv", [["generate"], ["eval"], ["resume"], ["plot"]], ids=str)
@pytest.mark.parametrize("name", ["hamlet", "hamlet@best", "../hamlet", "", "~nobody-here/x"])
def test_missing_run_is_refused(refused: Refused, argv: list[str], name: str) -> None:
    refused(*argv, name)


def test_misspelt_run_suggests_the_nearest(refused: Refused, workplace: Path) -> None:
    (workplace / "runs" / "hamlet").mkdir(parents=True)
    (workplace / "runs" / "hamlet" / "config.toml").write_text("")
    _, hint = refused("generate", "hamlt")
    assert "hamlet" in hint


@pytest.mark.parametrize("content", ["", "[model]\n", "[model]\ncolour = 1\n", "[model\n", "[model]\nn_layer = 'x'\n"])
@pytest.mark.parametrize("verb", [["generate", "hamlet"], ["eval", "hamlet"], ["resume", "hamlet"]], ids=str)
def test_run_with_damaged_settings_is_refused(refused: Refused, workplace: Path, verb: list[str], content: str) -> None:
    (workplace / "runs" / "hamlet").mkdir(parents=True)
    (workplace / "runs" / "hamlet" / "config.toml").write_text(content)
    refused(*verb)


def test_damaged_run_does_not_hide_the_others(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--run", "othello"]) == 0
    (workplace / "runs" / "hamlet").mkdir()
    (workplace / "runs" / "hamlet" / "config.toml").write_text("[model]\n")
    capsys.readouterr()
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert "othello" in out
    assert "warning: 'hamlet' cannot be read" in err


# Settings


@pytest.mark.parametrize(
    ("words", "named", "hinted"),
    [
        ("--train.stepz 5", "train.stepz", "train.steps"),
        ("--trian.steps 5", "trian.steps", "train.steps"),
        ("--train.lr 1e-3", "train.lr", "optim.lr"),
        ("--model.seed 3", "model.seed", "train.seed"),
        ("--train.steps many", "train.steps", "a whole number"),
        ("--train.steps 1.5", "train.steps", "a whole number"),
        ("--optim.lr fast", "optim.lr", "a number"),
        ("--model.tied maybe", "model.tied", "true or false"),
        ("--model.mlp elu", "model.mlp", "relu2"),
        ("--optim.betas 0.9", "optim.betas", "a list"),
        ("--train.steps 0", "train.steps", "1"),
        ("--train.steps=-5", "train.steps", "1"),
        ("--optim.lr 1e-4 --optim.min_lr 1e-3", "optim.min_lr", "1e-05"),
        ("--optim.lr .nan", "optim.lr", "number"),
        ("--train.epochs .nan", "train.epochs", "number"),
        ("--train.epochs .inf", "train.epochs", "number"),
        ("--train.grad_clip .nan", "train.grad_clip", "number"),
        ("--model.n_embd 33", "model.n_embd", "34"),
        ("--model.n_head 4 --model.n_kv_head 3", "model.n_kv_head", "1, 2, 4"),
        ("--model.n_embd 6", "rotary", "even"),
        ("--train.batch 8 --train.micro_batch 3", "train.micro_batch", "1, 2, 4, 8"),
        ("--model.vocab_size 3", "model.vocab_size", "leave"),
        ("--data.val 1", "data.val", "fraction"),
        ("--track.temperature -1", "temperature", "0"),
        ("--track.sample_tokens -1", "track.sample_tokens", "0"),
        ("--train.device tpu", "train.device", "cpu"),
        ("--tokenizer.kind word", "tokenizer.kind", "char"),
        ("--tokenizer.vocab_size 5", "5", "vocabulary"),
        ("--data.path absent", "absent", "fledge prepare"),
    ],
    ids=lambda case: str(case),
)
def test_wrong_setting_is_refused_with_name_and_hint(refused: Refused, words: str, named: str, hinted: str) -> None:
    error, hint = refused(*TRAIN, *words.split())
    assert named in error
    assert hinted in hint


@pytest.mark.parametrize(
    "content",
    [
        b"[train]\nstepz = 5\n",
        b"[trian]\nsteps = 5\n",
        b"[trian]\n",
        b"steps = 5\n",
        b"[train\n",
        b"[train]\nlog_every = 'many'\n",
        b"[train]\nsteps = 1\nsteps = 2\n",
        b"[train.deeper]\nsteps = 2\n",
        b"[[train]]\nsteps = 2\n",
        b"\xff\xfe[train]\n",
        b"[about]\npreset = 'mine.toml'\n",
        b"[about]\npreset = 7\n",
        b"[about]\npreset = 'absent'\n",
        b'[data]\ncorpus = "a\\u0000b"\n',
    ],
    ids=range(14),
)
def test_wrong_settings_file_is_refused(refused: Refused, workplace: Path, content: bytes) -> None:
    (workplace / "mine.toml").write_bytes(content)
    refused("train", "mine.toml", *TINY, "--data.val", "0.1")


# Words on the command line


@pytest.mark.parametrize(
    ("argv", "hinted"),
    [
        (["trian"], "train"),
        (["--verbose"], ""),
        ([""], ""),
        (["two\nlines"], ""),
        ([*TRAIN, "--rnu", "x"], "--run"),
        ([*TRAIN, "--run"], ""),
        ([*TRAIN, "--train.steps"], "--train.steps"),
        ([*TRAIN, "stray"], ""),
        ([*TRAIN, "--train.steps", "1", "stray"], ""),
        ([*TRAIN, "--section.key", "5"], ""),
        (["train"], ""),
        (["prepare"], ""),
        (["prepare", "duck.txt"], ""),
        (["prepare", "duck.txt", "--out", "out", "--model.n_layer", "3"], ""),
        (["runs", "--model.n_layer", "3"], ""),
        (["doctor", "now"], ""),
        (["demo", "--minutes", "soon"], ""),
        (["demo", "--minutes", "0"], ""),
        (["demo", "--minutes", "nan"], ""),
        (["presets", "dmo"], "demo"),
        (["corpora", "pyton"], "python"),
        (["tokenizer"], ""),
        (["tokenizer", "trian"], ""),
        (["tokenizer", "train"], ""),
        (["tokenizer", "train", "duck.txt"], ""),
        (["tokenizer", "train", "duck.txt", "--kind", "word", "--out", "new.json"], ""),
        (["tokenizer", "train", "duck.txt", "--kind", "char", "--vocab-size", "x", "--out", "new.json"], ""),
        (["tokenizer", "train", "duck.txt", "--kind", "char", "--vocab-size", "3", "--out", "new.json"], ""),
        (["tokenizer", "train", "duck.txt", "--kind", "char", "--out", "duck.txt"], ""),
        (["tokenizer", "show", "duck.json"], ""),
        (["tokenizer", "show", "absent.json", "text"], ""),
        (["tokenizer", "show", "duck.txt", "text"], ""),
        (["tokenizer", "show", ".", "text"], ""),
        (["generate", "x", "--tokens", "many"], ""),
        (["generate", "x", "--tokens", "-1"], ""),
        (["generate", "x", "--temperature", "-1"], ""),
        (["generate", "x", "--temperature", "nan"], ""),
        (["generate", "x", "--top-k", "0"], ""),
        (["generate", "x", "--top-p", "2"], ""),
        (["eval", "x", "--device", "tpu"], "cpu"),
    ],
    ids=lambda case: str(case),
)
def test_unknown_argument_is_refused(refused: Refused, argv: list[str], hinted: str) -> None:
    _, hint = refused(*argv)
    assert hinted in hint


# Places that cannot be written


@pytest.mark.parametrize("out", ["taken", "duck.txt", "duck.txt/out"])
def test_existing_output_is_refused_and_unchanged(refused: Refused, workplace: Path, out: str) -> None:
    (workplace / "taken").mkdir()
    (workplace / "taken" / "mine").write_text("kept")
    refused("prepare", "duck.txt", "--out", out, "--tokenizer.kind", "char")


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small tmpfs."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=64k") as disk:
        with contextlib.suppress(OSError), (disk / "filling").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        yield disk


@pytest.fixture
def frozen_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() == 0:
        with mounted(tmp_path / "disk", "ro") as disk:
            yield disk
    else:
        disk = tmp_path / "disk"
        disk.mkdir(mode=0o555)
        yield disk
        disk.chmod(0o755)


def writes_on(disk: Path, what: str, patch: pytest.MonkeyPatch) -> list[str]:
    if what == "cache":
        patch.setenv("FLEDGE_CACHE", str(disk / "cache"))
        return TRAIN
    return {
        "dataset": ["prepare", "duck.txt", "--out", str(disk / "out"), "--tokenizer.kind", "char"],
        "tokenizer": ["tokenizer", "train", "duck.txt", "--kind", "char", "--out", str(disk / "new.json")],
        "run": [*TRAIN, "--runs", str(disk / "runs")],
    }[what]


@pytest.mark.parametrize("what", ["dataset", "tokenizer", "run", "cache"])
def test_full_disk_is_reported_and_leaves_no_partial_file(
    refused: Refused, full_disk: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    error, hint = refused(*writes_on(full_disk, what, monkeypatch), watch=full_disk)
    assert "disk is full" in error
    assert "space" in hint


@pytest.mark.parametrize("room", [20, 60, 100, 140])
def test_disk_full_during_build_keeps_finished_parts(
    tmp_path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], room: int
) -> None:
    """With space again, the same command gives the bytes of an uninterrupted build."""
    monkeypatch.setattr(plan, "MIN_PART", 1)
    monkeypatch.setattr(plan, "MAX_PART", 1)  # each file is a part
    (workplace / "ducks").mkdir()
    for number in range(9):
        (workplace / "ducks" / f"{number}.txt").write_text(TEXT * 3 + str(number))
    prepare = ["prepare", "ducks", "--tokenizer.kind", "char", "--data.min_length", "2", "--out"]
    assert main([*prepare, "whole"]) == 0
    with mounted(tmp_path / "disk", "size=512k") as disk:
        (disk / "filling").write_bytes(b"x" * ((512 - room) << 10))
        capsys.readouterr()
        assert main([*prepare, str(disk / "out")]) == 2
        _, err = capsys.readouterr()
        assert "error: the disk is full" in err
        assert err.splitlines()[-1] == "hint: free some space, then run the same command again"
        finished = len(list(disk.glob("out/.parts/*.json")))
        assert finished or room < 100
        (disk / "filling").unlink()
        assert main([*prepare, str(disk / "out")]) == 0
        assert (f"{finished} of 9 parts are finished already" in capsys.readouterr().err) == (finished > 0)
        assert listing(disk / "out") == listing(workplace / "whole")


@pytest.mark.parametrize("what", ["dataset", "tokenizer", "run", "cache"])
def test_unwritable_folder_is_reported(
    refused: Refused, frozen_disk: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    error, _ = refused(*writes_on(frozen_disk, what, monkeypatch), watch=frozen_disk)
    assert "read-only" in error or "permission denied" in error
    assert "disk" in error


# Tokenizers and datasets that are none


DAMAGE = {
    "empty": b"",
    "half": b'{"model": {"type": "Word',
    "list": b"[]",
    "binary": b"\xff\xfe\0\1",
    "deep": b"[" * 100_000,
    "other": b'{"model": {"type": "Unigram"}}',
    "no vocabulary": b'{"added_tokens": [], "model": {"type": "WordLevel"}}',
    "no model": b'{"model": 7}',
    "bpe without merges": b'{"added_tokens": [], "model": {"type": "BPE", "vocab": {}}}',
}


@pytest.mark.parametrize("user", ["prepare", "train", "show"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tokenizer_is_refused(refused: Refused, workplace: Path, user: str, damage: str) -> None:
    (workplace / "broken.json").write_bytes(DAMAGE[damage])
    error, _ = refused(
        *{
            "prepare": ["prepare", "duck.txt", "--out", "out", "--tokenizer", "broken.json"],
            "train": [*TRAIN, "--tokenizer.file", "broken.json"],
            "show": ["tokenizer", "show", "broken.json", "text"],
        }[user]
    )
    assert "broken.json" in error


@pytest.mark.parametrize("file", ["absent.json", "."])
def test_missing_tokenizer_is_refused(refused: Refused, file: str) -> None:
    for argv in (["prepare", "duck.txt", "--out", "out", "--tokenizer", file], [*TRAIN, "--tokenizer.file", file]):
        error, _ = refused(*argv)
        assert f"'{file}'" in error


def test_unencodable_character_is_named(refused: Refused, workplace: Path) -> None:
    (workplace / "new.txt").write_text(TEXT + "Ω")
    assert main(["tokenizer", "train", "duck.txt", "--kind", "char", "--out", "duck.json"]) == 0
    for argv in (
        ["prepare", "new.txt", "--out", "out", "--tokenizer", "duck.json"],
        [*TRAIN, "--data.corpus", "new.txt", "--tokenizer.file", "duck.json"],
        ["tokenizer", "show", "duck.json", "Ω"],
    ):
        error, _ = refused(*argv)
        assert "U+03A9" in error


@pytest.mark.parametrize("path", [".", "duck.txt", "absent"])
def test_folder_that_is_no_dataset_is_refused(refused: Refused, path: str) -> None:
    error, hint = refused(*TRAIN, f"--data.path={path}")
    assert f"'{path}'" in error
    assert "fledge prepare" in hint


def test_empty_dataset_path_is_refused(refused: Refused) -> None:
    refused(*TRAIN, "--data.path=")


@pytest.mark.parametrize("file", ["dataset.json", "tokenizer.json", "train/00000.tokens", "val/00000.tokens"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "other"])
def test_damaged_dataset_names_the_file(refused: Refused, workplace: Path, file: str, damage: str) -> None:
    assert main(["prepare", "duck.txt", *PREPARE]) == 0
    path = workplace / "out" / file
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        half = len(whole) // 2
        path.write_bytes({"empty": b"", "cut": whole[:half], "other": whole[:half] + b"#" + whole[half + 1 :]}[damage])
    error, _ = refused(*TRAIN, "--data.path", "out")
    assert file in error or (file == "dataset.json" and damage == "gone")


def test_dataset_with_outside_paths_is_refused(refused: Refused, workplace: Path) -> None:
    assert main(["prepare", "duck.txt", *PREPARE]) == 0
    manifest = checked_content((workplace / "out" / "dataset.json").read_bytes(), indent=1)
    manifest["splits"]["train"]["shards"][0]["file"] = "../duck.txt"
    (workplace / "out" / "dataset.json").write_bytes(with_checksum(manifest, indent=1))
    error, _ = refused(*TRAIN, "--data.path", "out")
    assert "outside" in error


def test_damaged_cached_dataset_is_prepared_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--run", "first"]) == 0
    shard = next((tmp_path / "cache").rglob("train/00000.tokens"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"#")
    capsys.readouterr()
    assert main([*TRAIN, "--run", "second"]) == 0
    assert str(shard) in capsys.readouterr().err
    assert shard.read_bytes() == whole
