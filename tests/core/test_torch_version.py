"""The torch that is installed must be one that is tested."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

from fledge.cli.main import main
from fledge.core.errors import UserError
from fledge.core.torch_version import OVERRIDE, refuse_untested_torch, supported_range


def pretend(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def found(_: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError("torch")
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)


@pytest.mark.parametrize("version", ["2.11.0", "2.11.0+cu130", "2.13.0+cpu", "2.14.1"])
def test_tested_versions_are_accepted(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    pretend(monkeypatch, version)
    refuse_untested_torch()


@pytest.mark.parametrize("version", ["1.13.1", "2.1.0", "2.9.1", "2.10.0+cu128", "2.15.0", "2.15.0a0+git12", "3.0.0"])
def test_other_versions_are_refused_with_the_range(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    pretend(monkeypatch, version)
    with pytest.raises(UserError) as caught:
        refuse_untested_torch()
    assert version in caught.value.message
    assert supported_range() in caught.value.message
    monkeypatch.setenv(OVERRIDE, "1")
    refuse_untested_torch()


def test_untested_version_is_refused_by_every_verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pretend(monkeypatch, "2.9.1")
    assert main(["train", "demo", "--runs", str(tmp_path / "runs")]) == 2
    assert "torch 2.9.1 is not tested" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert main(["--help"]) == 0


def test_missing_torch_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, None)
    with pytest.raises(UserError, match="not installed") as caught:
        refuse_untested_torch()
    assert supported_range() in caught.value.hint


def test_pyproject_declares_the_same_range() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert supported_range() in project["project"]["dependencies"]
