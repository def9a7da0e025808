"""The log on a terminal or a pipe: a reader that does not read never stops the daemon.

A thread writes the lines. Those that wait for it are bounded; what does not fit is dropped and counted, and
the log says how many lines were dropped as soon as they are read again. A file has Twisted's own log.
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

MAX_WAITING_BYTES = 1024**2
"""Lines of this many bytes wait for a reader at most."""
FLUSH_TIMEOUT = 1.0
"""At its end the daemon waits this many seconds at most for its last lines to be read."""


@implementer(ILogObserver)
class LogOutput:
    """Writes log events as lines to a descriptor, which another thread may have to wait for."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._is_writing = False
        self._is_ending = False
        self._changed = Condition()
        self._thread: Thread | None = None

    def __call__(self, event: LogEvent) -> None:
        """Have an event written; it is dropped where too much waits already."""
        text = formatEventAsClassicLogText(event, formatTime=formatTime)
        if text is None:
            return
        line = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._size + len(line) > MAX_WAITING_BYTES:
                self._dropped += 1
                return
            self._waiting.append(line)
            self._size += len(line)
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
            return  # there are too many now; the next line tries again
        self._thread = thread

    def end(self) -> None:
        """Wait for a reader from now on: the daemon ends, and with it the thread."""
        self._is_ending = True
        self.flush()

    def flush(self) -> None:
        """Wait until all is written; once that took too long, it is not waited for again."""
        until = monotonic() + FLUSH_TIMEOUT
        with self._changed:
            while self._waiting or self._is_writing:
                if not self._changed.wait(until - monotonic()):
                    self._is_ending = False
                    return

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                data = b"".join(self._waiting)
                self._waiting.clear()
                self._is_writing = True
            is_written = self._write(data)
            with self._changed:
                self._size -= len(data)
                self._is_writing = False
                if not is_written:
                    self._dropped += data.count(b"\n")
                elif self._dropped:
                    said = b"%d lines of the log were dropped: nothing had read it\n" % self._dropped
                    self._dropped = 0
                    self._waiting.append(said)
                    self._size += len(said)
                self._changed.notify_all()

    def _write(self, data: bytes) -> bool:
        """Write all of it, however long that takes; False if there is no reader any more."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # whoever has opened it too has made it non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True


def output_of(options: Any) -> LogOutput | None:
    """Return what writes the log of a daemon with these options of twistd's; None if Twisted's own does.

    That is so if it goes to a file or to syslog, or if the user has chosen an observer.
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
