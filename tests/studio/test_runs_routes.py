"""The routes of the page Runs: the list, also of damaged runs; the live stream; commands of the forms."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fledge.core.errors import UserError
from fledge.runs.run_folder import LOCK
from fledge.studio import follow
from fledge.studio.events import Cursor, EventsCache, end_of, lines_after
from fledge.studio.follow import Follower, follower
from fledge.studio.processes import birth_of, lock_holder, stop_lock_holder, stop_process
from fledge.studio.state import Studio
from fledge.studio.training import Training, said_error
from fledge.tracking.events import Metrics, Notice, RolledBack
from fledge.tracking.rewind import rewind
from fledge.tracking.sinks.jsonl import JSONLSink

from .conftest import running_studio

LINUX = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs /proc")


@pytest.fixture
def runs(trained_runs: Path, tmp_path: Path) -> Path:
    """A copy of the folder with the run `tiny`."""
    return Path(shutil.copytree(trained_runs, tmp_path / "runs"))


def damage(runs: Path) -> None:
    for name in ("cut", "newer", "half", "odd"):
        shutil.copytree(runs / "tiny", runs / name)
    (runs / "cut" / "config.toml").write_bytes((runs / "cut" / "config.toml").read_bytes()[:40])
    newer = json.loads((runs / "newer" / "run.json").read_text()) | {"format": 99}
    (runs / "newer" / "run.json").write_text(json.dumps(newer))
    (runs / "half" / "run.json").unlink()
    (runs / "odd" / "config.toml").write_text("[model]\nn_layer = 'many'\nvocab_size = []\n[train]\nsteps = 3\n")
    (runs / "not-a-run").mkdir()
    (runs / ".hidden").mkdir()


def test_list_has_the_latest_first_and_says_what_is_wrong(runs: Path) -> None:
    damage(runs)
    os.utime(runs / "tiny" / "metrics.csv", (2e9, 2e9))
    page = Studio(runs).listing.page("", 0, 10)
    problems = {entry.run: entry.problem or "" for entry in page.runs}
    assert page.total == 5
    assert page.runs[0].run == "tiny"
    assert page.runs[0].summary is not None
    assert len(page.runs[0].curve) == 5
    assert "config.toml" in problems["cut"]
    assert "newer version" in problems["newer"]
    assert "run.json missing" in problems["half"]
    assert "damaged" in problems["odd"]
    assert [entry.run for entry in Studio(runs).listing.page("EW", 0, 10).runs] == ["newer"]
    assert len(Studio(runs).listing.page("", 3, 10).runs) == 2


def test_summaries_are_kept_until_a_file_changes(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fledge.studio import listing

    described, describe = [], listing.describe
    monkeypatch.setattr(listing, "describe", lambda *args: (described.append(args[0]), describe(*args))[1])
    found = Studio(runs).listing
    assert found.page("", 0, 9) == found.page("", 0, 9)
    assert described == ["tiny"]
    with (runs / "tiny" / "metrics.csv").open("a") as file:
        file.write("41" + "," * 40 + "\n")
    found.page("", 0, 9)
    assert described == ["tiny", "tiny"]


@pytest.mark.parametrize("name", ["../tiny", "/etc", "tiny/checkpoints/x", ".hidden", "missing", "", "tin"])
def test_only_runs_of_the_folder_are_found(runs: Path, name: str) -> None:
    with pytest.raises(UserError, match="no run"):
        Studio(runs).listing.find(name)


def test_details_events_and_curves(studio: Any) -> None:
    details = studio.get("runs/details", run="tiny").json()
    assert [each["step"] for each in details["checkpoints"] if not each["weights_only"]] == [40, 30, 20, 10]
    assert sum(each["best"] for each in details["checkpoints"]) == 1
    assert details["preset"] == "text"
    differs = {each["name"]: each["preset"] for each in details["settings"] if each["preset"] is not None}
    assert "optim.lr" in differs
    assert "train.device" not in differs
    assert details["changed_files"] == []
    assert "sha256.config.toml" in details["origin"]
    events = studio.get("runs/events", run="tiny@20").json()["events"]
    assert [event["step"] for event in events if event["event"] == "Sample"] == [0, 10, 20, 30, 40]
    assert not any(event["event"] == "Metrics" for event in events)
    curves = studio.get(
        "runs/curves", run="tiny", metric=["train/loss", "val/loss", "no/metric"], low=5, high=20
    ).json()
    assert curves["curves"]["train/loss"]["steps"] == list(range(5, 21))
    assert curves["curves"]["val/loss"]["steps"] == [10, 20]
    assert set(curves["curves"]) == {"train/loss", "val/loss"}
    assert curves["clock"]["tokens"]["values"][-1] == 40 * 8 * 64
    assert studio.get("runs/curves", run="gone").status_code == 400


def follow_run(runs: Path, name: str, after: str, last_id: str | None = None) -> Follower:
    state = Studio(runs)
    return follower(state.listing, state.training, [name], [after], last_id)


def heard(stream: Follower, *kinds: str) -> list[Any]:
    return [message.data for message in stream.poll() if message.event in kinds]


def test_stream_sends_what_is_new_and_loses_nothing_when_it_reconnects(runs: Path) -> None:
    folder = runs / "tiny"
    stream = follow_run(runs, "tiny", str(end_of(folder)))
    assert stream.hello().id == str(end_of(folder))
    assert heard(stream, "rows", "events", "reset") == []
    sink = JSONLSink(folder)
    sink.record(Metrics(41, {"train/loss": 1.0}))
    sink.record(Notice(41, "a note"))
    messages = [message for message in stream.poll() if message.event != "state"]
    assert [(each.event, each.id) for each in messages] == [("rows", None), ("events", str(end_of(folder)))]
    sink.record(Metrics(42, {"train/loss": float("nan")}))
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "Metrics", "step": 43')  # half a line
    again = follow_run(runs, "tiny", "0-0", messages[-1].id)  # the id of the last message counts
    assert heard(again, "rows") == [{"run": "tiny", "rows": [{"step": 42, "values": {"train/loss": None}}]}]
    assert heard(again, "rows") == []


def test_stream_says_that_a_run_was_rolled_back_renamed_or_deleted(runs: Path) -> None:
    folder = runs / "tiny"
    stream = follow_run(runs, "tiny", str(end_of(folder)))
    stream.poll()
    rewind(folder, 20, (RolledBack,))
    assert heard(stream, "reset", "rows") == [{"run": "tiny"}]
    assert heard(stream, "reset", "rows") == []
    folder.rename(runs / "other")
    assert heard(stream, "gone") == [{"run": "tiny", "renamed": "other"}]
    assert stream.poll() == []
    shutil.rmtree(runs / "other")
    assert heard(follow_run(runs, "other", "0-0"), "gone") == [{"run": "other", "renamed": None}]


def test_stream_of_a_run_that_is_renamed_while_it_is_read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = follow_run(runs, "tiny", str(end_of(runs / "tiny")))
    stream.poll()

    def renamed(folder: Path, cursor: Cursor) -> Any:
        folder.rename(runs / "other")
        return lines_after(folder, cursor)

    monkeypatch.setattr(follow, "lines_after", renamed)
    stream.runs[0].checked = 0  # the state is due, too
    assert [(each.event, each.data) for each in stream.poll()] == [("gone", {"run": "tiny", "renamed": "other"})]


@pytest.mark.parametrize("text", ["", "x", "5", "-1-0", "5-zz", "9999999-0", "1-00000000", f"{10**40}-0"])
def test_odd_cursors_reset_or_are_ignored(runs: Path, text: str) -> None:
    messages = heard(follow_run(runs, "tiny", text), "reset", "rows")
    assert messages in ([], [{"run": "tiny"}])


def test_damaged_events_are_sent_as_json_or_left_out(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    after = str(end_of(runs / "tiny"))
    with (runs / "tiny" / "events.jsonl").open("a") as file:
        file.write(
            '{"event": "Metrics", "step": 41, "values": {"a": NaN, "b": 1e999, "c": 1%s, "d": 2}}\n' % ("0" * 400)
        )
        file.write('{"event": "Metrics", "step": 42, "values": "none"}\n')
        file.write('{"event": "Sample", "step": 42, "prompt": "\\ud800", "text": "\\ud83e\\udd86", "reward": NaN}\n')
    rows, events = heard(follow_run(runs, "tiny", after), "rows", "events")
    assert rows["rows"] == [{"step": 41, "values": {"a": None, "b": None, "d": 2.0}}]
    assert [(each["prompt"], each["text"], each["reward"]) for each in events["events"]] == [("?", "\U0001f986", None)]
    with running_studio(runs) as studio:
        assert studio.get("runs/events", run="tiny").json()["events"][-1] == events["events"][-1]


def test_a_run_has_one_name_however_it_is_asked_for(runs: Path) -> None:
    with running_studio(runs) as studio:
        for name in ("tiny@best", "tiny/.", str(runs / "tiny")):
            assert studio.get("runs/entry", run=name).json()["run"] == "tiny"
        assert [each["run"] for each in studio.get("runs/list").json()["runs"]] == ["tiny"]
        answer = studio.post("runs/resume", {"run": "tiny@best"})
        assert "'tiny' is finished" in answer.text


def test_errors_of_the_file_system_are_said_in_words(runs: Path) -> None:
    (runs / ".studio").write_text("a file, where the studio makes a folder")
    with running_studio(runs) as studio:
        long = studio.post("runs/check", {"words": ["x" * 5000]})
        assert (long.status_code, "too long" in long.text) == (400, True)
        failed = studio.post("runs/resume", {"run": "tiny", "steps": 60})
        assert (failed.status_code, "already exists" in failed.text) == (500, True)
        assert studio.get("runs/jobs").json() == []


def test_process_whose_record_cannot_be_written_is_stopped(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")

    monkeypatch.setattr("fledge.studio.training.write_atomic", full)
    training = Training(runs)
    with pytest.raises(OSError, match="No space left"):
        training.start("tiny", training.resume_words("tiny", 5000))
    assert training.has_ended("tiny")


def test_files_of_a_job_have_names_that_a_file_system_takes(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert training.file("sweep/3", ".log").parent == training.folder
    training.folder.mkdir()
    training.file("\u00e9" * 100, ".json").touch()  # 200 bytes: the longest name of a run


def test_events_cache_reads_on_and_starts_anew_after_a_rollback(runs: Path) -> None:
    cache, folder = EventsCache(), runs / "tiny"
    before = cache.events(folder)
    assert before == cache.events(folder)
    JSONLSink(folder).record(Notice(41, "a note"))
    events, cursor = cache.events(folder)
    assert events[:-1] == before[0]
    assert events[-1]["text"] == "a note"
    assert cursor == end_of(folder) != Cursor()
    rewind(folder, 0)
    assert max(event["step"] for event in cache.events(folder)[0]) == 0


def test_route_streams_events(studio: Any) -> None:
    with (
        studio.client() as client,
        client.stream("GET", "/api/runs/follow", params={"run": "tiny", "after": "0-0"}) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = []
        for line in answer.iter_lines():
            lines.append(line)
            if line == "event: rows":
                break
        assert lines[0] == "event: hello"
        assert "id: 0-00000000" in lines


def test_command_is_checked_by_the_code_of_the_command(trained_runs: Path) -> None:
    training, text = Training(trained_runs), str(trained_runs.parent / "text")
    run, words = training.train_words([text, ""], {"optim.lr": "3e-4", "track.prompt": "--x y"}, "5", "", "")
    assert run == "text"
    assert training.describe(run, words).command == (
        f"fledge train {text} --run=text --optim.lr=3e-4 '--track.prompt=--x y' --minutes=5 --runs={trained_runs}"
    )
    refused = [
        ([text], {"optim.lrr": "1"}, "", "", "unknown setting 'optim.lrr'"),
        ([text], {"optim.lr": "fast"}, "", "", "optim.lr cannot be 'fast'"),
        ([text], {"--runs": "/"}, "", "", "not the name of a setting"),
        (["--print-config"], {}, "", "", "begins with a dash"),
        (["/no/such/text.txt"], {}, "", "", "no such file"),
        ([], {}, "", "", "no text and no preset"),
        ([text], {}, "soon", "", "soon"),
        ([text], {}, "", "../out", "cannot be named"),
        ([text], {}, "", "tiny", "already exists"),
    ]
    for given, settings, minutes, name, message in refused:
        with pytest.raises(UserError, match=message):
            training.train_words(given, settings, minutes, name, "")
    with pytest.raises(UserError, match="is finished"):
        training.resume_words("tiny", None)
    assert training.resume_words("tiny", 80) == ["resume", "tiny", "--train.steps=80", "--allow-changes"]
    with pytest.raises(UserError, match="not being trained"):
        training.stop("tiny")


def test_nothing_starts_by_a_url_or_a_form(studio: Any) -> None:
    for name in ("train", "resume", "stop", "check"):
        assert studio.get(f"runs/{name}", run="tiny").status_code == 405
        body = '{"run": "tiny", "words": ["demo"]}'
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            answer = studio.client().post(f"/api/runs/{name}", content=body, headers={"Content-Type": kind})
            assert answer.status_code in (400, 415, 422), (name, kind)
        json_type = {"Content-Type": "application/json"}
        foreign = {**json_type, "Origin": "http://127.0.0.1:1"}
        assert studio.client().post(f"/api/runs/{name}", content=body, headers=foreign).status_code == 403
    assert studio.get("runs/jobs").json() == []


LOCKER = """
import fcntl, signal, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


@LINUX
def test_only_the_process_that_holds_the_lock_is_stopped(runs: Path) -> None:
    lock = runs / "tiny" / LOCK
    with subprocess.Popen([sys.executable, "-c", LOCKER, str(lock)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        birth = birth_of(process.pid)
        assert lock_holder(lock) == process.pid
        assert lock_holder(runs / "tiny" / "config.toml") is None
        assert Studio(runs).listing.entry(runs / "tiny").summary.state == "running"  # type: ignore[union-attr]
        with pytest.raises(UserError, match="has ended"):
            stop_process(process.pid, f"{birth}0", "tiny")  # the same id, another process
        assert process.poll() is None
        Training(runs).stop("tiny")
        assert process.wait(20) == -signal.SIGTERM
    with pytest.raises(UserError, match="not known"):
        stop_lock_holder(lock, "tiny")
    with pytest.raises(UserError, match="has ended"):
        stop_process(process.pid, birth, "tiny")


def test_error_of_a_command_is_read_from_its_output() -> None:
    assert said_error("text\nerror: no such file\nhint: check it") == "no such file; check it"
    assert said_error("error: x\nerror: last") == "last"
    assert said_error("Traceback (most recent call last):\n  File\nValueError: 3") == "ValueError: 3"
    assert said_error("step 3\nstopped") is None
