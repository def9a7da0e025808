"""The directory of the runners: who lives, and who accepts starts."""

import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from taskqd.execution.privileged_directory import PrivilegedRunnerDirectory
from taskqd.execution.runner_directory import ActiveRunner, RunnerDirectory

NAME = "0123456789abcdef"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunnerDirectory]:
    opened = RunnerDirectory(str(tmp_path / "runner"))
    opened.open()
    yield opened
    opened.close()


@contextmanager
def locked(directory: RunnerDirectory, name: str, text: str) -> Iterator[None]:
    """Lock a file as a runner does."""
    descriptor = os.open(directory.file(name), os.O_RDWR | os.O_CREAT, 0o600)
    os.write(descriptor, text.encode())
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def test_directory_is_private_and_may_exist(directory: RunnerDirectory) -> None:
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    RunnerDirectory(directory.path).open()


def test_runner_lives_while_it_has_its_lock(directory: RunnerDirectory) -> None:
    assert not directory.is_alive(NAME)
    with locked(directory, f"{NAME}.lock", "1\n"):
        assert directory.is_alive(NAME)
    assert not directory.is_alive(NAME)


def test_active_runner_is_known_once_it_has_written_its_name(directory: RunnerDirectory) -> None:
    assert (directory.has_active(), directory.active()) == (False, None)
    with locked(directory, "lock", ""):
        assert (directory.has_active(), directory.active()) == (True, None)
    with locked(directory, "lock", f"4711 {NAME}\n"):
        assert directory.active() == ActiveRunner(4711, NAME)
    assert directory.active() is None


def test_names_are_those_of_all_files_of_runners(directory: RunnerDirectory) -> None:
    names = ["lock", "errors", f"{NAME}.new", f"{NAME}.ends", "f" * 16 + ".sock", "g" * 16 + ".lock"]
    for name in names:
        Path(directory.file(name)).touch()
    assert directory.names() == [NAME, "f" * 16]
    directory.remove(NAME)
    assert directory.names() == ["f" * 16]


def test_signal_goes_to_a_runner_that_lives(
    directory: RunnerDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *args: sent.append(args))
    Path(directory.file(f"{NAME}.lock")).write_text("4711\n")
    assert not directory.request_socket(NAME), "the pid of a dead runner may be another process's"
    with locked(directory, f"{NAME}.lock", "4711\n"):
        assert directory.request_socket(NAME)
    assert sent == [(4711, signal.SIGUSR1)]


# Root's, seen from a daemon that is not root.


def test_directory_of_root_s_runner_is_opened_when_it_is_there(tmp_path: Path) -> None:
    directory = PrivilegedRunnerDirectory(str(tmp_path / "runner"))
    directory.open()
    assert (directory.names(), directory.has_active()) == ([], False)
    assert directory.command.startswith("as root, taskqd-runner --daemon-user USER --directory /")
    (tmp_path / "runner").mkdir(0o750)
    (tmp_path / "runner" / f"{NAME}.lock").touch()
    if os.geteuid():
        with pytest.raises(PermissionError, match="is not a directory that only root can change"):
            directory.names()
        return
    assert directory.names() == [NAME]
    (tmp_path / "runner").rename(tmp_path / "old")
    (tmp_path / "runner").mkdir(0o750)
    assert directory.names() == [], "the new directory is read"
    (tmp_path / "runner").chmod(0o770)
    assert directory.names() == [], "it is the one that was opened"
    directory.close()
    with pytest.raises(PermissionError, match="is not a directory that only root can change"):
        directory.names()


def test_root_s_runner_is_not_signalled(tmp_path: Path) -> None:
    directory = PrivilegedRunnerDirectory(str(tmp_path))
    assert not directory.request_socket(NAME)
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    try:
        with locked(directory, f"{NAME}.lock", f"{os.getpid()}\n"):
            assert directory.request_socket(NAME)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert received == []
