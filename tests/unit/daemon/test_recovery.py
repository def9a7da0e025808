"""What a crash left running is ended at the next start."""

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


def ended_leftovers(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *table: Process,
    boot: str = "same",
    is_copy: bool = False,
) -> list[int]:
    """Return the pids that are killed before anything runs, where a crash left these processes."""
    killed: list[int] = []

    def kill_all(found: list[Process], seconds: float) -> list[Process]:
        killed.extend(one.pid for one in found)
        return found

    monkeypatch.setattr(proc, "boot_id", lambda: "same")
    monkeypatch.setattr(proc, "scan", lambda since: list(table))
    monkeypatch.setattr(proc, "kill_all", kill_all)
    parts = made(tmp_path / "state").components
    parts.journal.last_boot = boot
    parts.journal.is_copy = is_copy
    parts.journal.name = "store"
    recovery_of(parts).end_leftovers(replayed(STARTED))
    return killed


def recovery_of(parts: Components) -> Recovery:
    return Recovery(parts.journal, parts.clocks, parts.boot)


def left(session: int, mark: str = "", pid: int = 500, started: int = 90) -> Process:
    return Process(pid, started, pid, session, mark)


@pytest.mark.parametrize(
    "one, is_ended",
    [
        (left(101, "store.1.1"), True),
        (left(500, "store.1.1"), True),
        (left(90, "store.1.0"), True),
        (left(102, "store.2.1"), True),
        (left(500, "store.2.1"), False),
        (left(500, "store.3.1"), True),
        (left(500, "store.9.1"), True),
        (left(500, "other.1.1"), False),
        (left(101), False),
        (left(102), False),
        (left(101, pid=101, started=77), True),
        (left(101, pid=101, started=78), False),
        (left(102, pid=102, started=77), False),
    ],
)
def test_a_process_is_ended_if_its_attempt_was_interrupted_or_it_is_still_in_its_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one: Process, is_ended: bool
) -> None:
    assert ended_leftovers(monkeypatch, tmp_path, one) == ([one.pid] if is_ended else [])


def test_a_session_is_ended_whole_if_its_leader_or_a_marked_member_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = [
        *(left(101, pid=101, started=77), left(101, pid=501)),
        *(left(102, "store.2.1", pid=502), left(102, pid=503)),
    ]
    assert ended_leftovers(monkeypatch, tmp_path, *table) == [101, 501, 502, 503]


def test_the_start_times_of_another_boot_prove_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = left(101, pid=101, started=77)
    assert ended_leftovers(monkeypatch, tmp_path, one, boot="another") == []


def test_what_a_removed_job_had_started_and_left_its_session_lives_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "tests.unit.daemon.test_recovery.STARTED", [*STARTED, Removed(id=2, at=START, by="ada")]
    )
    assert ended_leftovers(monkeypatch, tmp_path, left(500, "store.2.1")) == []


def test_a_start_is_refused_if_processes_cannot_be_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(since: int) -> list[Process]:
        raise OSError("no /proc")

    monkeypatch.setattr(proc, "scan", refuse)
    with pytest.raises(StartRefused, match="no /proc"):
        recovery_of(made(tmp_path / "state").components).end_leftovers(replayed(STARTED))


def test_process_that_the_original_of_a_copy_started_is_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = left(101, pid=101, started=77)
    assert ended_leftovers(monkeypatch, tmp_path, one) == [101]
    assert ended_leftovers(monkeypatch, tmp_path, one, is_copy=True) == []


def test_what_does_not_end_is_told_to_the_operator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended_leftovers(monkeypatch, tmp_path, left(101, "store.1.1"))
    assert "process 500 of an interrupted job does not end" in caplog.text
