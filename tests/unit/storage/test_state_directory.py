"""The locks of the state directory, and the checks of its permissions."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from taskqd.errors import StartRefused
from taskqd.storage.state_directory import acquire_lock, check_permissions, check_unlocked, read_private_file

ME = os.getuid()

# Locks.


@pytest.fixture(name="state")
def make_state(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    return tmp_path


def release(held: tuple[int, ...]) -> None:
    for descriptor in held:
        os.close(descriptor)


def refused(state: Path) -> str:
    """Return the error of a second daemon; checks that it leaves no descriptor open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartRefused) as refusal:
        acquire_lock(str(state))
    with pytest.raises(StartRefused) as early:
        check_unlocked(str(state))
    assert str(early.value) == str(refusal.value)
    assert len(os.listdir("/proc/self/fd")) == before
    return str(refusal.value)


def test_lock_is_held_until_its_descriptors_are_closed(state: Path) -> None:
    held = acquire_lock(str(state))
    for _ in range(3):
        assert refused(state) == (
            f"another daemon, pid {os.getpid()}, already runs on the state directory {state}; "
            "stop it, or choose another --state"
        )
    release(held)
    check_unlocked(str(state))
    release(acquire_lock(str(state)))


def test_lock_with_a_removed_file_refuses_a_second_daemon(state: Path) -> None:
    held = acquire_lock(str(state))
    (state / "lock").unlink()
    assert "another daemon, pid unknown, already runs" in refused(state)
    assert not (state / "lock").exists()
    release(held)
    release(acquire_lock(str(state)))


def test_lock_with_a_replaced_journal_refuses_a_second_daemon(state: Path) -> None:
    held = acquire_lock(str(state))
    (state / "journal").rename(state / "old")
    (state / "journal").mkdir()
    assert f"another daemon, pid {os.getpid()}, already runs" in refused(state)
    release(held)


def test_lock_of_an_older_daemon_on_the_file_only_is_respected(state: Path) -> None:
    with open(state / "lock", "w", encoding="ascii") as older:
        older.write("17\n")
        older.flush()
        fcntl.flock(older, fcntl.LOCK_EX)
        assert "another daemon, pid 17, already runs" in refused(state)


def test_lock_leaves_the_state_directory_itself_unlocked(state: Path) -> None:
    held = acquire_lock(str(state))
    directory = os.open(state, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(directory)
    release(held)


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOLCK])
def test_lock_on_a_file_system_without_directory_locks_uses_the_file(
    state: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def refuse_directories(descriptor: int, operation: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refuse_directories)
    held = acquire_lock(str(state))
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
        acquire_lock(str(state))
    with pytest.raises(OSError, match="No locks available"):
        check_unlocked(str(state))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("left", [b"", b"1234567890\n", b"\xff" * 100])
def test_lock_file_of_a_killed_daemon_does_not_refuse_the_next_one(state: Path, left: bytes) -> None:
    (state / "lock").write_bytes(left)
    held = acquire_lock(str(state))
    assert (state / "lock").read_text() == f"{os.getpid()}\n"
    release(held)


@pytest.mark.parametrize("content, named", [(b"", "unknown"), (b"\n", "unknown"), (b"\xff\n", "\ufffd")])
def test_lock_file_without_a_pid_is_reported_as_unknown(state: Path, content: bytes, named: str) -> None:
    held = acquire_lock(str(state))
    (state / "lock").write_bytes(content)
    assert f"another daemon, pid {named}, already" in refused(state)
    release(held)


def test_lock_file_is_private_and_not_inherited(state: Path) -> None:
    held = acquire_lock(str(state))
    assert (state / "lock").stat().st_mode & 0o777 == 0o600
    assert not any(map(os.get_inheritable, held))
    release(held)


def test_lock_of_a_missing_directory_raises_an_os_error_and_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        acquire_lock(str(tmp_path / "nowhere"))
    check_unlocked(str(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []


# Permissions.


@pytest.fixture(name="place")
def make_place(tmp_path: Path) -> Path:
    place = tmp_path / "state"
    place.mkdir(mode=0o700)
    return place


def read(place: Path, name: str, max_bytes: int = 100) -> bytes:
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return read_private_file(directory, name, f"{place}/{name}", max_bytes)
    finally:
        os.close(directory)


def test_private_directory_is_accepted(place: Path) -> None:
    check_permissions(str(place))
    check_permissions(str(place), ME)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o770, 0o711, 0o720, 0o3704])
def test_directory_that_others_can_access_is_refused_with_a_chmod_command(place: Path, mode: int) -> None:
    place.chmod(mode)
    with pytest.raises(StartRefused) as refusal:
        check_permissions(str(place), ME)
    assert str(refusal.value) == (
        f"{place} can be accessed by other users (mode {mode:o}): chmod 700 {place}"
    )


def test_directory_of_another_user_is_refused_with_a_chown_command(place: Path) -> None:
    with pytest.raises(StartRefused) as refusal:
        check_permissions(str(place), ME + 1)
    assert f"{place} belongs to uid {ME}, and the daemon runs as uid {ME + 1}: " in str(refusal.value)
    assert f"chown -R {ME + 1} {place}" in str(refusal.value)


def test_path_that_is_a_file_or_missing_is_refused(place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(StartRefused, match="is not a directory; give the state directory"):
        check_permissions(f"{place}/file")
    with pytest.raises(FileNotFoundError):
        check_permissions(f"{place}/none")


def test_private_file_is_read_up_to_its_size_limit(place: Path) -> None:
    (place / "tokens").write_bytes(b"hello")
    (place / "tokens").chmod(0o600)
    assert read(place, "tokens") == b"hello"
    assert read(place, "tokens", 5) == b"hello"
    with pytest.raises(StartRefused, match="has 5 bytes, the limit is 4"):
        read(place, "tokens", 4)
    with pytest.raises(FileNotFoundError):
        read(place, "none")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o660])
def test_file_that_others_can_access_is_refused_with_a_chmod_command(place: Path, mode: int) -> None:
    (place / "tokens").write_bytes(b"sesame")
    (place / "tokens").chmod(mode)
    with pytest.raises(StartRefused) as refusal:
        read(place, "tokens")
    assert str(refusal.value) == (
        f"{place}/tokens can be accessed by other users (mode {mode:o}): chmod 600 {place}/tokens"
    )


def test_links_pipes_and_directories_are_refused_without_blocking(place: Path) -> None:
    (place / "secret").write_bytes(b"root:x")
    (place / "secret").chmod(0o600)
    (place / "link").symlink_to(place / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        read(place, "link")
    os.mkfifo(place / "pipe", 0o600)
    (place / "directory").mkdir(0o700)
    for name in ("pipe", "directory"):
        with pytest.raises(StartRefused, match=f"{name} is not a regular file; move it away"):
            read(place, name)
