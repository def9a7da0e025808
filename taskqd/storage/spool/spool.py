"""What jobs print and are given to read, on disk.

Below the state directory, ``output/`` has a file for each stream of an attempt that printed more than a
little, ``input/`` the blocks that came with submissions, ``progress/`` what running jobs report. What an
attempt prints goes to its files as it comes; recording.py does that. docs/journal.md §Spool is the layout.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, execute, succeed
from twisted.logger import Logger
from zope.interface import implementer

from taskqd.errors import StoreFailed
from taskqd.model.events import Output
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import InThread, ISpool
from taskqd.storage.spool.output import OutputObservers, OutputWriter, notify
from taskqd.storage.spool.user_files import UserFiles

STREAMS = {1: "stdout", 2: "stderr"}
"""The streams of an attempt, by their descriptor."""
MAX_BLOCKING_READ = 65_536
"""A piece of output of up to so many bytes is read in the reactor's thread, a larger one in another."""

MAX_BLOCKING_HASH = 262_144
"""Bytes of blocks that are hashed in the reactor's thread, in less than a millisecond; more in another."""
MAX_STRAY_NAMES = 5
"""Of entries that are not the daemon's the log names this many at most."""

_JOBS_A_DIRECTORY = 1000
_DIRECTORY = re.compile(r"[0-9]+")
_REPORT = re.compile(rb"\s*([0-9]{1,3})(?:\.[0-9]*)?\s*%?\s*")
_REPORT_BYTES = 64
_FILE = re.compile(r"([0-9]+)(?:\.([0-9]+))?(?:\.(?:stdout|stderr|script|stdin|secret))?")


def _digest(blocks: Sequence[bytes]) -> str:
    digest = sha256()
    for content in blocks:
        digest.update(content)
    return digest.hexdigest()


class _Running(NamedTuple):
    """An attempt by its number, and what it prints."""

    attempt: int
    recording: OutputWriter


@implementer(ISpool)
class Spool:
    """The files below ``directory``, and in ``handover`` those of attempts that run as other users.

    ``_reporting`` has the jobs that had made a file for their progress when that was looked for last.
    """

    _log = Logger()

    def __init__(
        self,
        directory: str,
        filesystem: Filesystem,
        clock: Any,
        in_thread: InThread,
        handover: UserFiles | None = None,
    ) -> None:
        self._directory = directory
        self._user_files = handover
        self._filesystem = filesystem
        self._clock = clock
        self._in_thread = in_thread
        self._open_attempts: dict[int, _Running] = {}
        self._with_progress: set[int] = set()
        self._observers: dict[int, OutputObservers] = {}

    def open(self) -> None:
        """Make the directories; raises OSError."""
        for name in ("output", "input", "progress"):
            self._filesystem.make_directory(os.path.join(self._directory, name))

    def store_blocks(self, job_id: int, blocks: dict[str, bytes]) -> "Deferred[None]":
        def write() -> None:
            for name, content in blocks.items():
                path = self.path(job_id, name)
                is_program = name == "script" and content.startswith(b"#!")
                descriptor = self._filesystem.create_with_parents(path, 0o700 if is_program else 0o600)
                try:
                    self._filesystem.write(descriptor, content)
                    self._filesystem.sync(descriptor)
                finally:
                    self._filesystem.close(descriptor)
                self._filesystem.sync_directory(os.path.dirname(path))

        return self._in_thread(write)

    def digest(self, blocks: Sequence[bytes]) -> "Deferred[str]":
        if sum(map(len, blocks)) <= MAX_BLOCKING_HASH:
            return succeed(_digest(blocks))
        return self._in_thread(_digest, blocks)

    def read_block(self, job_id: int, name: str) -> bytes:
        return self._filesystem.read_file(self.path(job_id, name))

    def path(self, job_id: int, name: str) -> str:
        if name == "progress":
            return f"{self._directory}/progress/{job_id}"
        return f"{self._directory}/input/{job_id // _JOBS_A_DIRECTORY}/{job_id}.{name}"

    def open_output(self, job_id: int, attempt: int, limit: int) -> OutputWriter:
        paths = {stream: self._output_path(job_id, attempt, stream) for stream in STREAMS}
        followers = self._observers.get(job_id, [])
        recording = OutputWriter(paths, self._filesystem, self._clock, self._in_thread, limit, followers)
        self._open_attempts[job_id] = _Running(attempt, recording)
        notify(followers)
        return recording

    def add_output_observer(self, job_id: int, on_durable: Callable[[], None]) -> Callable[[], None]:
        running = self._open_attempts.get(job_id)
        if job_id not in self._observers:
            self._observers[job_id] = [] if running is None else running.recording.observers
        followers = self._observers[job_id]
        followers.append(on_durable)

        def leave() -> None:
            if on_durable in followers:  # else it was dropped
                followers.remove(on_durable)
            if not followers and self._observers.get(job_id) is followers:
                del self._observers[job_id]

        return leave

    def remove_job(self, job_id: int, attempts: int) -> "Deferred[None]":
        paths = [self.path(job_id, name) for name in ("script", "stdin", "secret")]
        paths += [
            self._output_path(job_id, number, stream)
            for number in range(1, attempts + 1)
            for stream in STREAMS
        ]

        def remove() -> None:
            for path in paths:
                self._filesystem.remove(path)
            for directory in {os.path.dirname(path) for path in paths}:
                self._filesystem.remove_empty_directory(directory)

        return self._in_thread(remove)

    def sweep(self, attempts: Callable[[int], int | None]) -> int:
        """Remove the files of jobs that are not known, and return how many; raises OSError.

        ``attempts`` tells of a job how many attempts it has had, None if there is no such job.
        """
        count = 0
        stray: list[str] = []
        for path, job_id, attempt in list(self._files(stray)):
            known = attempts(job_id)
            if known is not None and attempt <= known:
                continue
            try:
                self._filesystem.remove(path)
                count += 1
            except (IsADirectoryError, PermissionError):
                stray.append(path)
        for kind in ("output", "input"):
            for directory in self._directories(kind):
                self._filesystem.remove_empty_directory(directory)
        if stray:
            self._log.warn(
                "{count} entries in {state} are not the daemon's and are left alone: {names}",
                count=len(stray),
                state=self._directory,
                names=" ".join(sorted(stray)[:MAX_STRAY_NAMES]),
            )
        return count

    def _files(self, stray: list[str]) -> Iterator[tuple[str, int, int]]:
        """Yield (path, job, attempt) of every file; the attempt is 0 where it is of all attempts.

        The paths of entries that the daemon does not make are added to ``stray``.
        """
        for kind in ("output", "input", "progress"):
            top = os.path.join(self._directory, kind)
            directories = [top] if kind == "progress" else list(self._directories(kind, stray))
            for directory in directories:
                for name in self._filesystem.list_directory(directory):
                    form = _FILE.fullmatch(name)
                    path = os.path.join(directory, name)
                    if form:
                        yield path, int(form[1]), int(form[2] or 0)
                    else:
                        stray.append(path)

    def _directories(self, kind: str, stray: list[str] | None = None) -> Iterator[str]:
        """Yield the directories ``N`` below ``output`` or ``input``; other entries are added to ``stray``."""
        top = os.path.join(self._directory, kind)
        for name in self._filesystem.list_directory(top):
            path = os.path.join(top, name)
            if _DIRECTORY.fullmatch(name) and os.path.isdir(path) and not os.path.islink(path):
                yield path
            elif stray is not None:
                stray.append(path)

    def close_attempt(self, job_id: int) -> None:
        self._open_attempts.pop(job_id, None)
        if job_id in self._with_progress:
            self._with_progress.discard(job_id)
            with suppress(OSError):
                self._filesystem.remove(self.path(job_id, "progress"))
        if self._user_files is not None:
            self._user_files.remove(job_id)
        notify(self._observers.get(job_id, []))

    def output_on_disk(self, job_id: int, attempt: int) -> tuple[Output, Output]:
        sizes = [self._filesystem.size(self._output_path(job_id, attempt, stream)) for stream in STREAMS]
        return Output(sizes[0] or 0), Output(sizes[1] or 0)

    def output_sizes(self, job_id: int) -> dict[str, int] | None:
        running = self._open_attempts.get(job_id)
        if running is None:
            return None
        out, err = running.recording.streams.values()
        return {
            "stdout_bytes": out.size,
            "stderr_bytes": err.size,
            "stdout_dropped": out.dropped,
            "stderr_dropped": err.dropped,
        }

    def read_output(
        self, job_id: int, attempt: int, stream: int, offset: int, length: int
    ) -> "Deferred[bytes]":
        running = self._open_attempts.get(job_id)
        is_it = running is not None and running.attempt == attempt
        head = running.recording.streams[stream].head if running is not None and is_it else None
        if head is not None:
            return succeed(bytes(head[offset : offset + length]))
        path = self._output_path(job_id, attempt, stream)
        if length <= MAX_BLOCKING_READ:
            return execute(self._read, path, offset, length)
        return self._in_thread(self._read, path, offset, length)

    def read_progress(self, job_id: int) -> int:
        """Return the last whole line's percentage, 0 to 100; anything else that a job wrote counts as 0."""
        try:
            progress = self._last_report(job_id)
        except FileNotFoundError:
            self._with_progress.discard(job_id)
            return 0
        except OSError:
            progress = 0
        self._with_progress.add(job_id)
        return progress

    def _last_report(self, job_id: int) -> int:
        descriptor = self._open_progress(job_id)
        try:
            size = os.fstat(descriptor).st_size
            tail = os.pread(descriptor, _REPORT_BYTES, max(0, size - _REPORT_BYTES))
        finally:
            os.close(descriptor)
        lines = tail.rpartition(b"\n")[0].splitlines()
        report = _REPORT.fullmatch(lines[-1]) if lines else None
        return min(int(report[1]), 100) if report else 0

    def _open_progress(self, job_id: int) -> int:
        handed_over = None if self._user_files is None else self._user_files.open_progress(job_id)
        if handed_over is not None:
            return handed_over
        path = self.path(job_id, "progress")
        if not os.access(path, os.F_OK, follow_symlinks=False):  # as of nearly all, and cheaper than to try
            raise FileNotFoundError(path)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)

    def _read(self, path: str, offset: int, length: int) -> bytes:
        try:
            descriptor = self._filesystem.open(path)
            try:
                return self._filesystem.read(descriptor, length, offset)
            finally:
                self._filesystem.close(descriptor)
        except OSError as why:
            raise StoreFailed(f"{path} cannot be read: {why}") from None

    def _output_path(self, job_id: int, attempt: int, stream: int) -> str:
        directory = f"{self._directory}/output/{job_id // _JOBS_A_DIRECTORY}"
        return f"{directory}/{job_id}.{attempt}.{STREAMS[stream]}"
