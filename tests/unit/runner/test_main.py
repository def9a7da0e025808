"""The runner's program: which of several runners of one directory accepts starts."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskqd.execution.runner_directory import ACTIVE_LOCK, RunnerDirectory
from taskqd.runner import main
from taskqd.runner.main import LOCK_TIMEOUT

NAME = "a" * 16


class Sleeps:
    """Replaces the clock and sleep(3); ``on_sleep()`` is called at each sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep: Callable[[], object] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


@pytest.fixture(name="sleeps")
def fake_sleep(monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    sleeps = Sleeps()
    monkeypatch.setattr(time, "sleep", sleeps.sleep)
    monkeypatch.setattr(time, "monotonic", lambda: sleeps.now)
    return sleeps


@pytest.fixture(name="directory")
def a_directory(tmp_path: Path) -> Iterator[RunnerDirectory]:
    directory = RunnerDirectory(str(tmp_path))
    directory.open()
    yield directory
    directory.close()


@pytest.fixture(name="hold")
def locks(directory: RunnerDirectory) -> Iterator[Callable[[str], int]]:
    """Lock the file ``lock`` by another descriptor, as another process does, with a text in it."""
    held: list[int] = []

    def hold(text: str) -> int:
        held.append(os.open(directory.file(ACTIVE_LOCK), os.O_RDWR | os.O_CREAT, 0o600))
        os.write(held[-1], text.encode())
        fcntl.flock(held[-1], fcntl.LOCK_EX)
        return held[-1]

    yield hold
    for descriptor in held:
        os.close(descriptor)


def test_start_beside_an_active_runner_is_refused_at_once(
    directory: RunnerDirectory, hold: Callable[[str], int], sleeps: Sleeps
) -> None:
    hold(f"4711 {NAME}\n")
    with pytest.raises(SystemExit, match=f"runner {NAME}, process 4711, runs the jobs"):
        main._lock_active(directory)
    assert sleeps.now == 0.0


def test_start_waits_for_a_runner_that_retires(
    directory: RunnerDirectory, hold: Callable[[str], int], sleeps: Sleeps
) -> None:
    lock = hold("")
    sleeps.on_sleep = lambda: fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(main._lock_active(directory))
    assert 0.0 < sleeps.now < LOCK_TIMEOUT


def test_start_is_refused_when_another_one_has_won(
    directory: RunnerDirectory, hold: Callable[[str], int], sleeps: Sleeps
) -> None:
    lock = hold("")
    sleeps.on_sleep = lambda: os.pwrite(lock, f"4711 {NAME}\n".encode(), 0)
    with pytest.raises(SystemExit, match=NAME):
        main._lock_active(directory)
    assert 0.0 < sleeps.now < LOCK_TIMEOUT


def test_start_waits_for_a_limited_time_for_a_lock_without_a_name(
    directory: RunnerDirectory, hold: Callable[[str], int], sleeps: Sleeps
) -> None:
    hold("")
    with pytest.raises(SystemExit, match="another runner runs the jobs"):
        main._lock_active(directory)
    assert sleeps.now == pytest.approx(LOCK_TIMEOUT, abs=0.02)


def test_name_of_a_dead_runner_is_removed_from_the_lock(directory: RunnerDirectory) -> None:
    path = Path(directory.file(ACTIVE_LOCK))
    path.write_text(f"4711 {NAME}\n")
    lock = main._lock_active(directory)
    assert path.read_text() == ""
    os.close(lock)
