"""One daemon per state directory."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from taskqd.errors import StartRefused
from taskqd.storage.state_directory import refuse_if_locked, take_lock


@pytest.fixture(name="state")
def a_state(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    return tmp_path


def release(held: tuple[int, ...]) -> None:
    for descriptor in held:
        os.close(descriptor)


def refused(state: Path) -> str:
    """Return why a second daemon is refused; it must leave no descriptor open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartRefused) as refusal:
        take_lock(str(state))
    with pytest.raises(StartRefused) as early:
        refuse_if_locked(str(state))
    assert str(early.value) == str(refusal.value)
    assert len(os.listdir("/proc/self/fd")) == before
    return str(refusal.value)


def test_lock_is_held_until_its_descriptors_are_closed(state: Path) -> None:
    held = take_lock(str(state))
    for _ in range(3):
        said = f"another daemon, pid {os.getpid()}, already runs on the state directory {state}"
        assert refused(state) == said
    release(held)
    refuse_if_locked(str(state))
    release(take_lock(str(state)))


def test_lock_whose_file_was_removed_refuses_a_second_daemon(state: Path) -> None:
    held = take_lock(str(state))
    (state / "lock").unlink()
    assert "another daemon, pid unknown, already runs" in refused(state)
    assert not (state / "lock").exists()
    release(held)
    release(take_lock(str(state)))


def test_lock_whose_journal_was_replaced_refuses_a_second_daemon(state: Path) -> None:
    held = take_lock(str(state))
    (state / "journal").rename(state / "old")
    (state / "journal").mkdir()
    assert f"another daemon, pid {os.getpid()}, already runs" in refused(state)
    release(held)


def test_lock_of_a_daemon_that_locks_the_file_alone_is_respected(state: Path) -> None:
    with open(state / "lock", "w", encoding="ascii") as older:
        older.write("17\n")
        older.flush()
        fcntl.flock(older, fcntl.LOCK_EX)
        assert "another daemon, pid 17, already runs" in refused(state)


def test_lock_of_the_state_directory_itself_is_left_to_the_token_file(state: Path) -> None:
    held = take_lock(str(state))
    directory = os.open(state, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(directory)
    release(held)


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOLCK])
def test_file_system_that_locks_no_directories_leaves_the_file_to_decide(
    state: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def refuse_directories(descriptor: int, operation: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refuse_directories)
    held = take_lock(str(state))
    assert "already runs" in refused(state)
    release(held)


def test_lock_file_that_cannot_be_locked_is_an_error_and_leaves_nothing_open(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def refuse_files(descriptor: int, operation: int) -> None:
        if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refuse_files)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No locks available"):
        take_lock(str(state))
    with pytest.raises(OSError, match="No locks available"):
        refuse_if_locked(str(state))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("left", [b"", b"1234567890\n", b"\xff" * 100])
def test_lock_file_that_a_killed_daemon_left_refuses_nothing(state: Path, left: bytes) -> None:
    (state / "lock").write_bytes(left)
    held = take_lock(str(state))
    assert (state / "lock").read_text() == f"{os.getpid()}\n"
    release(held)


@pytest.mark.parametrize("content, named", [(b"", "unknown"), (b"\n", "unknown"), (b"\xff\n", "\ufffd")])
def test_holder_that_has_not_written_its_pid_yet_is_unknown(state: Path, content: bytes, named: str) -> None:
    held = take_lock(str(state))
    (state / "lock").write_bytes(content)
    assert f"another daemon, pid {named}, already" in refused(state)
    release(held)


def test_lock_is_for_its_owner_alone_and_not_for_children(state: Path) -> None:
    held = take_lock(str(state))
    assert (state / "lock").stat().st_mode & 0o777 == 0o600
    assert not any(map(os.get_inheritable, held))
    release(held)


def test_directory_that_is_missing_is_an_error_of_the_system_and_in_no_use(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        take_lock(str(tmp_path / "nowhere"))
    refuse_if_locked(str(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []
