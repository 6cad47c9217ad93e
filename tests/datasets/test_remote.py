"""Datasets at a URL: written to a local S3 server, and downloaded into the cache."""

import json
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fledge.cli.main import main
from fledge.core.checksums import checked_content, with_checksum
from fledge.core.errors import UserError
from fledge.datasets import remote
from fledge.datasets.build import BuildSpec, build
from fledge.datasets.config import DataConfig
from fledge.datasets.executors import Task, in_process
from fledge.datasets.shards import open_dataset
from fledge.datasets.spec import build_spec
from fledge.tokenizers.config import TokenizerConfig

from .conftest import no_progress

PARTS = 6
SMALL_PARTS = """
import sys
from fledge.cli.main import main
from fledge.datasets import plan
plan.MIN_PART = plan.MAX_PART = 1
sys.exit(main())
"""
ASKED = ["--tokenizer.kind", "char", "--data.dedup", "true", "--data.test", "0.2"]


class Store:
    """A folder of the bucket."""

    def __init__(self, url: str) -> None:
        import s3fs

        self.url, self.root, self.system = url, url.removeprefix("s3://"), s3fs.S3FileSystem(use_listings_cache=False)

    def contents(self) -> dict[str, bytes]:
        return {path.removeprefix(f"{self.root}/"): self.system.cat(path) for path in self.system.find(self.root)}

    def write(self, name: str, content: bytes) -> None:
        self.system.pipe(f"{self.root}/{name}", content)

    def remove(self, name: str) -> None:
        self.system.rm(f"{self.root}/{name}", recursive=True)

    def changed(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Another manifest."""
        manifest = checked_content(self.system.cat(f"{self.root}/dataset.json"), indent=1)
        change(manifest)
        self.write("dataset.json", with_checksum(manifest, indent=1))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(bucket: str) -> Store:
    """A new, empty one."""
    return Store(f"{bucket}/{secrets.token_hex(4)}")


@pytest.fixture
def poems(tmp_path: Path, small_parts: None) -> Path:
    """Six files, six parts."""
    folder = tmp_path / "poems"
    folder.mkdir()
    for number in range(PARTS):
        (folder / f"{number}.txt").write_text(f"poem {number}: la la, und Käse 🦆\n" * 30)
    return folder


@pytest.fixture
def alone(poems: Path, tmp_path: Path) -> dict[str, bytes]:
    """The files of the dataset built in a local folder."""
    out = tmp_path / "alone"
    assert main(["prepare", str(poems), "--out", str(out), *ASKED]) == 0
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def kept(poems: Path, store: Store, alone: dict[str, bytes]) -> Store:
    """A store that holds the same files."""
    for name, content in alone.items():
        store.write(name, content)
    return store


# Writing


def test_dataset_at_a_url_equals_the_local_one(poems: Path, alone: dict[str, bytes], store: Store) -> None:
    assert main(["prepare", str(poems), "--out", store.url, *ASKED]) == 0
    assert store.contents() == alone


def test_two_workers_read_from_and_write_to_s3(poems: Path, alone: dict[str, bytes], store: Store) -> None:
    for path in poems.iterdir():
        store.write(f"poems/{path.name}", path.read_bytes())
    assert main(["prepare", f"{store.url}/poems", "--out", f"{store.url}/out", "--workers", "2", *ASKED]) == 0
    made = Store(f"{store.url}/out").contents()
    assert made.keys() == alone.keys()
    assert {name for name in made if made[name] != alone[name]} == {"dataset.json"}  # it names the source


def test_ray_writes_to_s3(poems: Path, alone: dict[str, bytes], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    words = ["prepare", str(poems), "--out", store.url, "--engine", "ray", "--workers", "1", "--json", *ASKED]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
        done = subprocess.run([sys.executable, "-c", SMALL_PARTS, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert list(Path(folder).glob("ray/session_2*"))  # it started its own Ray, which has ended
        assert folder not in subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, text=True).stdout
    assert json.loads(done.stdout)["folder"] == store.url
    assert store.contents() == alone


def counting(made: list[int]) -> Callable[[Task, Sequence[Any]], Iterator[tuple[Any, Any]]]:
    def run(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for item, result in in_process(task, items):
            made.append(item.number)
            yield item, result

    return run


def spec_for(poems: Path, store: Store) -> BuildSpec:
    return build_spec([str(poems)], DataConfig(dedup=True, test=0.2), TokenizerConfig(kind="char"), store.url)


KILLED_AT_PART_THREE = f"""
import os, signal
from fledge.datasets import build
make_part = build.make_part
build.make_part = lambda spec, part: os.kill(os.getpid(), 9) if part.number == 3 else make_part(spec, part)
{SMALL_PARTS}"""


def test_killed_remote_build_keeps_finished_parts(poems: Path, alone: dict[str, bytes], store: Store) -> None:
    words = [sys.executable, "-c", KILLED_AT_PART_THREE, "prepare", str(poems), "--out", store.url, *ASKED]
    assert subprocess.run(words).returncode == -signal.SIGKILL
    made: list[int] = []
    build(spec_for(poems, store), counting(made), no_progress, lambda _: None)
    assert made == [3, 4, 5]
    assert store.contents() == alone


def test_failed_remote_build_says_how_to_continue(
    poems: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        yield items[0], task(items[0])
        raise UserError("the lights are out", "find a candle")

    with pytest.raises(UserError, match="lights") as caught:
        build(spec_for(poems, store), interrupted, no_progress, lambda _: None)
    assert "run the same command to continue" in caught.value.hint


def test_repeated_remote_build_writes_nothing(poems: Path, kept: Store, alone: dict[str, bytes]) -> None:
    kept.write(".parts/00000.json", b"left by a kill at the very end")
    assert main(["prepare", str(poems), "--out", kept.url, *ASKED]) == 0
    assert kept.contents() == alone


@pytest.mark.parametrize("asked", [ASKED, ["--tokenizer.kind", "char"]], ids=["the same", "another"])
def test_unrelated_files_at_the_url_are_kept(
    poems: Path, store: Store, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store.write("holiday.jpg", b"sand")
    assert main(["prepare", str(poems), "--out", store.url, *asked]) == 2
    assert "holiday.jpg" in capsys.readouterr().err
    assert store.contents() == {"holiday.jpg": b"sand"}


def test_another_remote_dataset_is_not_overwritten(
    poems: Path, kept: Store, alone: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", str(poems), "--out", kept.url, "--tokenizer.kind", "char"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert kept.contents() == alone


def test_missing_bucket_is_named(poems: Path, bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(poems), "--out", f"{bucket}-missing/x", *ASKED]) == 2
    assert f"'{bucket}-missing/x'" in capsys.readouterr().err


# Reading


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_dataset_is_downloaded_once(kept: Store, alone: dict[str, bytes]) -> None:
    folder = remote.download_dataset(kept.url)
    assert files(folder) == alone
    kept.remove("train")
    assert files(remote.download_dataset(kept.url)) == alone
    assert open_dataset(folder).available_splits == ["train", "val", "test"]


def test_damaged_shard_in_the_cache_is_downloaded_again(kept: Store, alone: dict[str, bytes]) -> None:
    shard = remote.download_dataset(kept.url) / "train" / "00000.tokens"
    for damage in (b"", b"x" + shard.read_bytes()[1:], shard.read_bytes()[:-1]):
        shard.write_bytes(damage)
        assert files(remote.download_dataset(kept.url)) == alone


def test_partial_download_leaves_no_shard(kept: Store, cache: Path) -> None:
    kept.write("train/00000.tokens", b"damaged")
    with pytest.raises(UserError, match=f"'{kept.url}/train/00000.tokens' is missing or damaged"):
        remote.download_dataset(kept.url)
    assert not any(path.name == "00000.tokens" for path in cache.rglob("train/*"))
    kept.remove("train/00000.tokens")
    with pytest.raises(UserError, match=f"'{kept.url}/train/00000.tokens' is missing or damaged"):
        remote.download_dataset(kept.url)
    assert not list(cache.rglob(".partial*"))


@pytest.mark.parametrize(
    "name", ["../x", "train/../../x.tokens", "/etc/passwd", "train/00000.tokens\n", "dataset.json", "a\0b", "", 5, None]
)
def test_manifest_with_a_path_outside_is_refused(kept: Store, cache: Path, name: object) -> None:
    kept.changed(lambda manifest: manifest["splits"]["train"]["shards"][0].update(file=name))
    with pytest.raises(UserError, match="not a shard"):
        remote.download_dataset(kept.url)
    assert not list(cache.rglob("*.tokens"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"splits": []}', b'{"splits": {"train": 1}}', b"[" * 99_999])
def test_damaged_remote_manifest_is_refused_by_name(kept: Store, content: bytes) -> None:
    kept.write("dataset.json", content)
    with pytest.raises(UserError, match=f"damaged: '{kept.url}/dataset.json'"):
        remote.download_dataset(kept.url)


@pytest.mark.parametrize("name", ["dataset.json", "tokenizer.json"])
def test_missing_remote_file_is_named(kept: Store, name: str) -> None:
    kept.remove(name)
    with pytest.raises(UserError, match=kept.url):
        remote.download_dataset(kept.url)


def test_only_changed_shards_are_downloaded_again(poems: Path, kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    folder = remote.download_dataset(kept.url)
    before, times = files(folder), {path: path.stat().st_mtime_ns for path in folder.rglob("*.tokens")}
    (poems / "0.txt").write_text("poem 0: la la, und Käse 🦆!\n" * 20)
    kept.remove("")
    assert main(["prepare", str(poems), "--out", kept.url, *ASKED]) == 0
    assert remote.download_dataset(kept.url) == folder
    after = files(folder)
    assert after == kept.contents()
    changed = {name for name in after if after[name] != before.get(name)}
    assert "dataset.json" in changed
    again = {path.relative_to(folder).as_posix() for path, t in times.items() if path.stat().st_mtime_ns != t}
    assert again == {name for name in changed if name in before and name.endswith(".tokens")}
