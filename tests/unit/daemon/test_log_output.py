"""The log on a pipe: a reader that stops blocks nothing, and learns how many lines were dropped."""

import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from twisted.application.service import Application
from twisted.logger import ILogObserver
from zope.interface.verify import verifyObject

from taskqd.daemon import log_output as module
from taskqd.daemon.log_output import LogOutput, make_log_output
from taskqd.daemon.tap import makeService
from tests.unit.daemon.test_tap import OPTIONS

PIPE_BYTES = 4096


class Pipe(NamedTuple):
    """A pipe with a small buffer."""

    reading: int
    writing: int

    def read(self, count: int) -> list[str]:
        """Return the next ``count`` lines."""
        with os.fdopen(os.dup(self.reading), encoding="utf-8") as file:
            return [file.readline().rstrip("\n") for _ in range(count)]


@pytest.fixture(name="pipe")
def a_pipe() -> Iterator[Pipe]:
    pipe = Pipe(*os.pipe())
    fcntl.fcntl(pipe.writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield pipe
    os.set_blocking(pipe.reading, False)
    while True:  # so that the thread is not blocked any more
        try:
            os.read(pipe.reading, 2**20)
        except BlockingIOError:
            break


def log(output: LogOutput, text: str) -> None:
    output({"log_format": "{text}", "text": text, "log_time": 1_700_000_000.0})


def text_of(line: str) -> str:
    return line.partition("] ")[2]


def test_log_lines_have_twisted_s_format(pipe: Pipe) -> None:
    output = LogOutput(pipe.writing)
    verifyObject(ILogObserver, output)
    log(output, "one")
    log(output, "grün\udcff")
    output({})
    output.flush()
    first, second = pipe.read(2)
    assert first.startswith("20")
    assert (text_of(first), text_of(second)) == ("one", "grün\\udcff")


@pytest.mark.parametrize("is_blocking", [True, False])
def test_log_that_is_not_read_drops_lines_and_states_how_many_later(
    pipe: Pipe, is_blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 10_000)
    os.set_blocking(pipe.writing, is_blocking)
    output = LogOutput(pipe.writing)
    for number in range(1000):
        log(output, f"line {number} {'x' * 70}")
    with os.fdopen(os.dup(pipe.reading), encoding="utf-8") as file:
        lines: list[str] = []
        dropped = 0
        while len(lines) + dropped < 1000:
            line = file.readline()
            if line.endswith(" lines of the log were dropped: nothing had read it\n"):
                dropped += int(line.split()[0])
            else:
                lines.append(line)
    numbers = [int(text_of(line).split()[1]) for line in lines]
    assert numbers == sorted(set(numbers))
    assert 0 < len(lines) < 1000
    log(output, "the next one")
    output.flush()
    assert text_of(pipe.read(1)[0]) == "the next one"


def test_end_waits_for_a_reader_only_once(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_TIMEOUT", 0.05)
    output = LogOutput(pipe.writing)
    log(output, "x" * 2 * PIPE_BYTES)
    output.end()
    waited: list[object] = []
    monkeypatch.setattr(output, "flush", lambda: waited.append(None))
    log(output, "the last word")
    assert waited == []


def test_line_after_the_end_is_written_before_the_call_returns(pipe: Pipe) -> None:
    output = LogOutput(pipe.writing)
    output.end()
    log(output, "the last word")
    os.set_blocking(pipe.reading, False)
    assert os.read(pipe.reading, 1000).endswith(b"the last word\n")


def test_line_is_written_with_the_next_one_if_no_thread_can_be_started(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    output = LogOutput(pipe.writing)
    with monkeypatch.context() as shortage:
        shortage.setattr(threading.Thread, "start", refuse)
        log(output, "one")
    log(output, "two")
    assert [text_of(line) for line in pipe.read(2)] == ["one", "two"]


def test_lines_are_dropped_if_the_reader_is_gone(pipe: Pipe) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    output = LogOutput(writing)
    for _ in range(3):
        log(output, "lost")
        output.flush()
    assert output.dropped == 3
    os.close(writing)


@pytest.mark.parametrize(
    "options, is_used",
    [
        ({"nodaemon": True}, True),
        ({"nodaemon": True, "logfile": "-"}, True),
        ({"nodaemon": True, "logfile": "a.log"}, False),
        ({"nodaemon": True, "syslog": True}, False),
        ({"nodaemon": True, "logger": "a.b"}, False),
        ({"nodaemon": False}, False),
        ({}, False),
    ],
)
def test_log_output_is_used_only_in_the_foreground(
    pipe: Pipe, options: dict[str, Any], is_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(fileno=lambda: pipe.writing))
    assert (make_log_output(options) is not None) is is_used


def test_log_output_is_not_used_for_a_file_or_a_closed_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert make_log_output({"nodaemon": True}) is None
    assert make_log_output({"nodaemon": True}) is None, "stdout is closed"
    monkeypatch.setattr(sys, "stdout", None)
    assert make_log_output({"nodaemon": True}) is None


def test_application_of_the_daemon_logs_to_the_log_output(
    pipe: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(fileno=lambda: pipe.writing))
    options = OPTIONS()
    options.parent = {"nodaemon": True}
    options.parseOptions(["--state", str(tmp_path)])
    application: Any = Application("taskq")
    makeService(options).setServiceParent(application)
    assert isinstance(application.getComponent(ILogObserver), LogOutput)
