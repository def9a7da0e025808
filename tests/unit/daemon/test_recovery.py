"""Processes that a crash leftover running are killed at the next start."""

from pathlib import Path

import pytest

from taskqd.daemon.recovery import REBOOTED, Recovery
from taskqd.daemon.wiring import Components
from taskqd.errors import StartRefused
from taskqd.execution import proc
from taskqd.execution.attempt_ends import RUNNER_KILLED, SUSPECTED, ended_message
from taskqd.execution.messages import AttemptKey, Gone
from taskqd.execution.notes import format_note
from taskqd.execution.proc import Process
from taskqd.execution.run import Outcome
from taskqd.model.events import Ended, Event, Removed, Spawned, Started, Submitted
from taskqd.model.job import Reason, Status
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


# A restart of the machine while jobs ran at a runner.

RUNNER = "00c0ffee00c0ffee"
AT_RUNNER: list[Event] = [
    event
    for job_id in (1, 2, 3)
    for event in (
        submitted(job_id),
        Started(id=job_id, at=START + job_id, attempt=1, word=f"{job_id:016x}", runner=RUNNER),
    )
]


def noted(job_id: int, word: int) -> bytes:
    key = AttemptKey(job_id, 1, f"{word:016x}")
    return format_note(ended_message(key, Outcome(reason=Reason.EXIT, exit_code=5), START + 7))


@pytest.mark.parametrize(
    "notes, known",
    [
        (None, []),
        (b"", []),
        (noted(1, 1) + noted(2, 2), [1, 2]),
        (noted(1, 1) + noted(2, 2)[:-1], [1]),
        (noted(1, 1) + noted(2, 2)[:30] + noted(3, 3), [1]),
        (noted(1, 1) + bytes(4096), [1]),
        (noted(1, 1) + format_note(Gone(runner=RUNNER))[:-2], [1]),
        (noted(1, 2), []),
    ],
)
@pytest.mark.parametrize("has_lock", [True, False])
def test_attempts_of_another_boot_have_the_ends_in_notes_that_are_whole_and_are_else_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: bytes | None, known: list[int], has_lock: bool
) -> None:
    monkeypatch.setattr(proc, "boot_id", lambda: "this")
    parts = made(tmp_path / "state").components
    (tmp_path / "state").mkdir()
    parts.runners.open()
    if notes is not None:
        Path(parts.runners.notes_path(RUNNER)).write_bytes(notes)
    if has_lock:  # its directory entry may be lost, as that of the notes
        Path(parts.runners.file(f"{RUNNER}.lock")).write_text("1\n")
        Path(parts.runners.file("lock")).write_text(f"1 {RUNNER}\n")
    parts.journal.last_boot = "another"
    outcomes = recovery_of(parts).outcomes(replayed(AT_RUNNER), parts.runners)
    for job_id in (1, 2, 3):
        outcome = outcomes[job_id]
        if job_id in known:
            assert (outcome.exit_code, outcome.ended_at, outcome.is_lost) == (5, START + 7, False)
        else:
            assert (outcome.detail, outcome.is_lost, outcome.is_void) == (REBOOTED, True, False)


def test_newest_attempt_of_a_killed_runner_is_suspected_only_in_the_same_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proc, "boot_id", lambda: "this")
    parts = made(tmp_path / "state").components
    (tmp_path / "state").mkdir()
    parts.runners.open()
    found = {}
    for boot in ("this", "another"):
        parts.journal.last_boot = boot
        outcomes = recovery_of(parts).outcomes(replayed(AT_RUNNER), parts.runners)
        found[boot] = [outcomes[job_id].detail for job_id in (1, 2, 3)]
    assert found == {"this": [RUNNER_KILLED, RUNNER_KILLED, SUSPECTED], "another": [REBOOTED] * 3}
