"""Writes the log to a terminal or a pipe, without ever blocking the daemon on a reader that does not read.

A thread writes the lines. The lines that wait for it are limited in size; lines beyond that are dropped, and
the log states how many once they are read again. Twisted itself writes a log that goes to a file.
"""

import os
import select
import stat
import sys
from collections import deque
from threading import Condition, Thread
from time import monotonic
from typing import Any

from twisted.logger import ILogObserver, LogEvent, formatEventAsClassicLogText, formatTime
from zope.interface import implementer

MAX_QUEUED_BYTES = 1024**2
"""Bytes of lines that may wait to be written."""
FLUSH_TIMEOUT = 1.0
"""Seconds that the daemon waits at its end for the last lines to be read."""


@implementer(ILogObserver)
class LogOutput:
    """Writes log events as lines to a file descriptor, in a thread that may block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queued: deque[bytes] = deque()
        self._queued_bytes = 0
        self.dropped = 0
        self._is_writing = False
        self._is_ending = False
        self._changed = Condition()
        self._thread: Thread | None = None

    def __call__(self, event: LogEvent) -> None:
        """Queue an event to be written; drop it if the queue is full."""
        text = formatEventAsClassicLogText(event, formatTime=formatTime)
        if text is None:
            return
        line = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._queued_bytes + len(line) > MAX_QUEUED_BYTES:
                self.dropped += 1
                return
            self._queued.append(line)
            self._queued_bytes += len(line)
            self._changed.notify_all()
            if self._thread is None:
                self._start_thread()
        if self._is_ending:
            self.flush()

    def _start_thread(self) -> None:
        thread = Thread(target=self._run, name="taskqd-log", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # the machine has too many threads now; the next line tries again
        self._thread = thread

    def end(self) -> None:
        """Flush now and after every further line: the thread ends with the daemon."""
        self._is_ending = True
        self.flush()

    def flush(self) -> None:
        """Wait until everything is written; after a timeout, later calls do not wait again."""
        until = monotonic() + FLUSH_TIMEOUT
        with self._changed:
            while self._queued or self._is_writing:
                if not self._changed.wait(until - monotonic()):
                    self._is_ending = False
                    return

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queued:
                    self._changed.wait()
                data = b"".join(self._queued)
                self._queued.clear()
                self._is_writing = True
            is_written = self._write(data)
            with self._changed:
                self._queued_bytes -= len(data)
                self._is_writing = False
                if not is_written:
                    self.dropped += data.count(b"\n")
                elif self.dropped:
                    notice = b"%d lines of the log were dropped: nothing had read it\n" % self.dropped
                    self.dropped = 0
                    self._queued.append(notice)
                    self._queued_bytes += len(notice)
                self._changed.notify_all()

    def _write(self, data: bytes) -> bool:
        """Write all data, blocking as long as that takes; return False if there is no reader any more."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process that has the file open has made it non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True


def make_log_output(options: Any) -> LogOutput | None:
    """Return the log output for twistd's ``options``; None if Twisted itself writes the log.

    It does so to a file or to syslog, and if the user has chosen an observer.
    """
    is_elsewhere = (
        options.get("logfile") not in (None, "", "-") or options.get("syslog") or options.get("logger")
    )
    if is_elsewhere or not options.get("nodaemon"):
        return None
    try:
        descriptor = sys.stdout.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError, AttributeError):
        return None
    return None if stat.S_ISREG(mode) else LogOutput(descriptor)
