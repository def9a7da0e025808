"""Compaction: replaces sealed segments by a snapshot, which a child process writes."""

import os
import sys
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.model.events import RecordPosition
from taskqd.storage.interfaces import InThread
from taskqd.storage.journal.journal import Journal

CHECK_INTERVAL = 1.0
"""Seconds between two checks whether a snapshot is due."""
MIN_SEALED_BYTES = 16 * 1024**2
"""A snapshot is due when the sealed segments have more bytes than this and than the last snapshot.

So each byte is copied a bounded number of times while the journal grows, and the journal has at most about
twice the size of its live records.
"""
RETRY_INTERVAL = 60.0
"""Seconds between a snapshot that failed and the next attempt."""
RELOCATION_BYTES = 16 * 1024
"""Bytes of the list of new positions that are applied per turn of the reactor, in about a millisecond."""
MAX_ERROR_BYTES = 1000
"""Bytes of the process's stderr that its error message may have; the last ones are kept."""

Relocate = Callable[[int, int, int, RecordPosition], object]
"""``relocate(job_id, attempt, number, position)``: the attempt's ``ended`` record has moved.

``position`` is the new one, valid if the old one was in a file up to segment ``number``.
"""


class Compactor:
    """Replaces sealed segments of ``journal`` by a snapshot, whenever they have outgrown the last snapshot.

    ``write_snapshot(directory, number)`` writes the snapshot of all segments up to ``number`` and fires when
    it is durable. The old files are removed once ``relocate`` has been called for every record that moved,
    so a known position can be read at any time. One snapshot is made at a time. ``is_known(job_id)`` tells
    whether a job has not been removed.
    """

    _log = Logger()

    def __init__(
        self,
        journal: Journal,
        clock: IReactorTime,
        write_snapshot: Callable[[str, int], "Deferred[None]"],
        relocate: Relocate,
        in_thread: InThread,
        is_known: Callable[[int], bool],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._write_snapshot = write_snapshot
        self._relocate = relocate
        self._in_thread = in_thread
        self._is_known = is_known
        self._timer: IDelayedCall | None = None
        self._is_running = False
        self._is_stopped = False
        self._retry_at = 0.0

    def start(self) -> None:
        """Check now and every CHECK_INTERVAL whether a snapshot is due, and make it."""
        if not self._is_stopped:
            self._check()

    def stop(self) -> None:
        """Start no more snapshots; if one is being written, its process ends without the daemon."""
        self._is_stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _check(self) -> None:
        if self._is_snapshot_due():
            self._is_running = True
            Deferred.fromCoroutine(self._make_snapshot()).addErrback(self._on_failure)
        self._timer = self._clock.callLater(CHECK_INTERVAL, self._check)

    def _is_snapshot_due(self) -> bool:
        journal = self._journal
        if self._is_running or journal.failure is not None or self._clock.seconds() < self._retry_at:
            return False
        has_new_segments = journal.last_durable_segment - 1 > journal.snapshot_number
        return has_new_segments and journal.sealed_bytes > max(MIN_SEALED_BYTES, journal.snapshot_bytes)

    async def _make_snapshot(self) -> None:
        segments, number = self._journal.segments, self._journal.last_durable_segment - 1
        try:
            await self._write_snapshot(segments.directory, number)
            await self._relocate_all(number)
            self._journal.compacted(number, await self._in_thread(segments.remove_obsolete, number))
            for _ in self._journal.forget_jobs(self._is_known):
                await deferLater(self._clock, 0)
        finally:
            self._is_running = False

    async def _relocate_all(self, number: int) -> None:
        path, start = self._journal.segments.relocations_path(number), 0
        while True:
            lines: bytes = await self._in_thread(_read_lines, path, start)
            if not lines:
                return
            for line in lines.splitlines():
                job_id, attempt, offset, length = map(int, line.split())
                self._relocate(job_id, attempt, number, (-number, offset, length))
            start += len(lines)
            await deferLater(self._clock, 0)

    def _on_failure(self, failure: Failure) -> None:
        self._retry_at = self._clock.seconds() + RETRY_INTERVAL
        if not self._is_stopped:
            self._log.error(
                "snapshot of {directory} failed: {why}; the next attempt is in {seconds:g} s",
                directory=self._journal.segments.directory,
                why=failure.getErrorMessage(),
                seconds=RETRY_INTERVAL,
            )


class SnapshotProcess(ProcessProtocol):
    """The process that writes a snapshot.

    ``ended`` fires when it has exited with 0. Else it fails with an OSError that has the end of its stderr.
    """

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self._stderr = b""

    def errReceived(self, data: bytes) -> None:
        self._stderr = (self._stderr + data)[-MAX_ERROR_BYTES:]

    def processEnded(self, reason: Failure) -> None:
        if reason.check(ProcessDone):
            self.ended.callback(None)
        else:
            message = self._stderr.decode("utf-8", "replace").strip()
            self.ended.errback(OSError(message or str(reason.value)))


def write_snapshot(reactor: IReactorProcess, directory: str, number: int) -> "Deferred[None]":
    """Write the snapshot up to segment ``number`` in another process; see ``SnapshotProcess.ended``.

    The daemon's working directory, in which jobs run, is not searched for modules.
    """
    program = "import sys; del sys.path[0]; from taskqd.storage.journal.snapshot import main; main()"
    process = SnapshotProcess()
    argv = [sys.executable, "-c", program, directory, str(number)]
    reactor.spawnProcess(process, sys.executable, argv, env=dict(os.environ))
    return process.ended


def _read_lines(path: str, start: int) -> bytes:
    """Return the next complete lines, of up to RELOCATION_BYTES; nothing at the end of the file."""
    with open(path, "rb") as file:
        file.seek(start)
        lines = file.read(RELOCATION_BYTES)
    return lines[: lines.rfind(b"\n") + 1]
