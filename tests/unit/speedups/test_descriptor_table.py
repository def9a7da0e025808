"""Descriptor tables that threads do not share."""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from taskqd.speedups import descriptor_table


def in_thread(call: Callable[[], Any]) -> Any:
    """Return what a call returns in a thread that ends with it, or raise what it raises."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as why:  # noqa: BLE001 - it is raised again
            results.append(why)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


@pytest.fixture(name="pipe")
def a_pipe() -> Any:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_unshare_keeps_the_standard_descriptors_and_one_more(pipe: tuple[int, int]) -> None:
    before = os.listdir("/proc/self/fd")

    def unshare() -> tuple[int, list[str], bool]:
        kept = descriptor_table.unshare(pipe[1])
        found = sorted(os.listdir("/proc/thread-self/fd"), key=int)
        os.write(kept, b"from there")
        return kept, found, os.get_inheritable(kept)

    assert in_thread(unshare) == (3, ["0", "1", "2", "3", "4"], False), "4 is the listing's own"
    assert os.read(pipe[0], 99) == b"from there"
    assert os.listdir("/proc/self/fd") == before, "the shared table is unchanged"


def test_unshare_can_keep_descriptor_3() -> None:
    code = (
        "import os; from taskqd.speedups import descriptor_table\n"
        "ours, theirs = os.pipe(); os.dup2(theirs, 3, inheritable=False)\n"
        "print(descriptor_table.unshare(3), sorted(os.listdir('/proc/thread-self/fd')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "3 ['0', '1', '2', '3', '4']\n"


def test_borrowed_descriptors_exist_within_the_context(pipe: tuple[int, int]) -> None:
    def borrow() -> tuple[bool, list[bool]]:
        descriptor_table.unshare(pipe[0])
        for _ in range(3):
            later = os.pipe2(0)
            for end in later:
                os.close(end)
        with descriptor_table.borrow([pipe[1], pipe[1]]) as borrowed:
            for descriptor in borrowed:
                os.write(descriptor, b"x")
            inherited = [os.get_inheritable(descriptor) for descriptor in borrowed]
        gone = []
        for descriptor in borrowed:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
            gone.append(descriptor)
        return gone == list(borrowed), inherited

    assert in_thread(borrow) == (True, [False, False])
    assert os.read(pipe[0], 99) == b"xx"


def test_descriptor_opened_later_can_be_borrowed(pipe: tuple[int, int]) -> None:
    has_left, is_open = threading.Event(), threading.Event()
    later: list[int] = []

    def borrow() -> None:
        descriptor_table.unshare(pipe[0])
        has_left.set()
        assert is_open.wait(10)
        with descriptor_table.borrow(later[1:]) as (writing,):
            os.write(writing, b"later")

    def open_one() -> None:
        assert has_left.wait(10)
        later.extend(os.pipe())
        is_open.set()

    opener = threading.Thread(target=open_one)
    opener.start()
    in_thread(borrow)
    opener.join()
    assert os.read(later[0], 99) == b"later"
    for descriptor in later:
        os.close(descriptor)


def test_failed_borrow_leaks_nothing(pipe: tuple[int, int]) -> None:
    def borrow() -> tuple[list[str], list[str]]:
        descriptor_table.unshare(pipe[0])
        with descriptor_table.borrow([]):
            before = os.listdir("/proc/thread-self/fd")
        with pytest.raises(OSError, match="Bad file descriptor"), descriptor_table.borrow([pipe[1], 2**20]):
            pytest.fail("it is not there")
        return before, os.listdir("/proc/thread-self/fd")

    before, after = in_thread(borrow)
    assert before == after


def test_borrow_in_a_sharing_thread_returns_the_same_descriptors(pipe: tuple[int, int]) -> None:
    with descriptor_table.borrow(pipe) as borrowed:
        assert borrowed == pipe
    os.write(pipe[1], b"still open")


def test_unshared_thread_blocks_all_signals(pipe: tuple[int, int]) -> None:
    def blocked() -> set[int]:
        descriptor_table.unshare(pipe[0])
        return signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert signal.SIGCHLD in in_thread(blocked)
    assert signal.SIGCHLD not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_unshare_without_pidfd_open_changes_nothing(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(OSError, match="has no os"):
        in_thread(lambda: descriptor_table.unshare(pipe[0]))


@pytest.mark.parametrize("call", ["syscall", "unshare"])
def test_refused_unshare_changes_nothing(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(descriptor_table._libc, call, lambda *_: -1)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EPERM)
    before = os.listdir("/proc/self/fd")

    def unshare() -> list[str]:
        with pytest.raises(PermissionError):
            descriptor_table.unshare(pipe[0])
        with descriptor_table.borrow(pipe) as borrowed:
            assert borrowed == pipe
        return os.listdir("/proc/self/fd")

    assert in_thread(unshare) == before
