"""Processes that a crash leftover running are killed at the next start."""

from pathlib import Path

import pytest

from taskqd.daemon.recovery import Recovery
from taskqd.daemon.wiring import Components
from taskqd.errors import StartRefused
from taskqd.execution import proc
from taskqd.execution.proc import Process
from taskqd.model.events import Ended, Event, Removed, Spawned, Started, Submitted
from taskqd.model.job import Status
from tests.fakes.clocks import START
from tests.fakes.engine import replayed
from tests.unit.daemon.test_tap import made


def submitted(job_id: int, command: str = "true") -> Submitted:
    return Submitted(id=job_id, at=START, owner="ada", command=command)


STARTED: list[Event] = [
    submitted(1),
    Started(id=1, at=START, attempt=1),
    Spawned(id=1, at=START, pid=101, started=77),
    submitted(2),
    Started(id=2, at=START, attempt=1),
    Spawned(id=2, at=START, pid=102, started=77),
    Ended(id=2, at=START, status=Status.COMPLETED),
    submitted(3),
]


def killed_leftovers(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *table: Process,
    boot: str = "same",
    is_copy: bool = False,
) -> list[int]:
    """Return the pids that a start kills if a crash leftover these processes."""
    killed: list[int] = []

    def kill_all(found: list[Process], seconds: float) -> list[Process]:
        killed.extend(process.pid for process in found)
        return found

    monkeypatch.setattr(proc, "boot_id", lambda: "same")
    monkeypatch.setattr(proc, "scan", lambda since: list(table))
    monkeypatch.setattr(proc, "kill_all", kill_all)
    parts = made(tmp_path / "state").components
    (tmp_path / "state").mkdir(exist_ok=True)
    parts.journal.last_boot = boot
    parts.journal.is_copy = is_copy
    parts.journal.name = "store"
    parts.runners.open()
    recovery_of(parts).end_leftovers(replayed(STARTED), parts.runners)
    return killed


def recovery_of(parts: Components) -> Recovery:
    return Recovery(parts.journal, parts.clocks, parts.boot)


def leftover(session: int, mark: str = "", pid: int = 500, started: int = 90) -> Process:
    return Process(pid, started, pid, session, mark)


@pytest.mark.parametrize(
    "process, is_killed",
    [
        (leftover(101, "store.1.1"), True),
        (leftover(500, "store.1.1"), True),
        (leftover(90, "store.1.0"), True),
        (leftover(102, "store.2.1"), True),
        (leftover(500, "store.2.1"), False),
        (leftover(500, "store.3.1"), True),
        (leftover(500, "store.9.1"), True),
        (leftover(500, "other.1.1"), False),
        (leftover(101), False),
        (leftover(102), False),
        (leftover(101, pid=101, started=77), True),
        (leftover(101, pid=101, started=78), False),
        (leftover(102, pid=102, started=77), False),
    ],
)
def test_process_is_killed_if_its_job_was_interrupted_or_it_is_in_its_job_s_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, process: Process, is_killed: bool
) -> None:
    assert killed_leftovers(monkeypatch, tmp_path, process) == ([process.pid] if is_killed else [])


def test_whole_session_is_killed_if_its_leader_or_a_marked_member_exists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = [
        *(leftover(101, pid=101, started=77), leftover(101, pid=501)),
        *(leftover(102, "store.2.1", pid=502), leftover(102, pid=503)),
    ]
    assert killed_leftovers(monkeypatch, tmp_path, *table) == [101, 501, 502, 503]


def test_session_leader_of_another_boot_is_not_recognized(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process = leftover(101, pid=101, started=77)
    assert killed_leftovers(monkeypatch, tmp_path, process, boot="another") == []


def test_marked_process_of_a_removed_job_outside_its_session_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "tests.unit.daemon.test_recovery.STARTED", [*STARTED, Removed(id=2, at=START, by="ada")]
    )
    assert killed_leftovers(monkeypatch, tmp_path, leftover(500, "store.2.1")) == []


def test_start_is_refused_if_proc_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(since: int) -> list[Process]:
        raise OSError("no /proc")

    monkeypatch.setattr(proc, "scan", refuse)
    parts = made(tmp_path / "state").components
    (tmp_path / "state").mkdir(exist_ok=True)
    parts.runners.open()
    with pytest.raises(StartRefused, match="no /proc"):
        recovery_of(parts).end_leftovers(replayed(STARTED), parts.runners)


def test_processes_of_the_original_of_a_copy_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = leftover(101, pid=101, started=77)
    assert killed_leftovers(monkeypatch, tmp_path, process) == [101]
    assert killed_leftovers(monkeypatch, tmp_path, process, is_copy=True) == []


def test_process_that_survives_sigkill_is_logged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_leftovers(monkeypatch, tmp_path, leftover(101, "store.1.1"))
    assert "process 500 of an interrupted job does not end" in caplog.text
