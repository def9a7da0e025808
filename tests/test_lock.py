"""One daemon a state directory."""

import os
from pathlib import Path

import pytest

from taskqd.errors import StartRefused
from taskqd.lock import take_lock


def test_a_lock_is_held_until_its_descriptor_is_closed(tmp_path: Path) -> None:
    held = take_lock(str(tmp_path))
    for _ in range(3):
        with pytest.raises(StartRefused) as refusal:
            take_lock(str(tmp_path))
        assert str(refusal.value) == (
            f"another daemon, pid {os.getpid()}, already runs on the state directory {tmp_path}"
        )
    os.close(held)
    os.close(take_lock(str(tmp_path)))


@pytest.mark.parametrize("left", [b"", b"1234567890\n", b"\xff" * 100])
def test_what_a_killed_daemon_left_in_it_keeps_nobody_out(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "lock").write_bytes(left)
    held = take_lock(str(tmp_path))
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    os.close(held)


@pytest.mark.parametrize("content, named", [(b"", "unknown"), (b"\n", "unknown"), (b"\xff\n", "\ufffd")])
def test_a_holder_that_has_not_said_its_pid_yet_is_unknown(
    tmp_path: Path, content: bytes, named: str
) -> None:
    held = take_lock(str(tmp_path))
    (tmp_path / "lock").write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartRefused, match=f"another daemon, pid {named}, already"):
        take_lock(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(held)


def test_a_lock_is_for_its_owner_alone_and_not_for_children(tmp_path: Path) -> None:
    held = take_lock(str(tmp_path))
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(held)
    os.close(held)


def test_a_directory_that_cannot_be_used_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        take_lock(str(tmp_path / "nowhere"))
