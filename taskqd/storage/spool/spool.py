"""The spool: the input and the output of jobs, on disk (docs/journal.md §Spool has the layout).

Below the state directory, ``output/`` has a file for each stream of an attempt that printed more than a few
KiB, ``input/`` the blocks of submissions, and ``progress/`` the files to which running jobs report progress.
"""

import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256

from twisted.internet.defer import Deferred, execute, succeed
from zope.interface import implementer

from taskqd.errors import StoreFailed
from taskqd.model.events import Output
from taskqd.model.progress import Progress
from taskqd.model.schedule import ScheduleBlocks
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.interfaces import InThread, ISpool
from taskqd.storage.spool import sweep
from taskqd.storage.spool.block_files import BlockFiles
from taskqd.storage.spool.environment_files import EnvironmentFiles
from taskqd.storage.spool.output import OutputObservers, notify
from taskqd.storage.spool.progress import ProgressFiles
from taskqd.storage.spool.user_files import IUserFiles

STREAMS = {1: "stdout", 2: "stderr"}
"""The streams of an attempt, by their descriptor."""
MAX_BLOCKING_READ = 65_536
"""Bytes of output that are read in the reactor's thread; larger pieces are read in another."""
MAX_BLOCKING_HASH = 262_144
"""Bytes that are hashed in the reactor's thread, in less than a millisecond; more are hashed in another."""

ORDER = "order"
"""The end of the name of the file with the order of an attempt's output."""

_JOBS_PER_DIRECTORY = 1000


class _OpenAttempt:
    """An attempt that has not been closed, and the bytes of its output that were not kept, by stream."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.dropped = (0, 0)


@implementer(ISpool)
class Spool:
    """The files of jobs below ``directory``; ``user_files`` has those of attempts that run as other users.

    A runner writes the output of attempts. ``on_followed(job_id, is_followed)`` is called when the first
    observer of a job's output is added, and when the last one is removed; it returns whether a runner will
    write the output through and report that.
    """

    def __init__(
        self,
        directory: str,
        filesystem: Filesystem,
        in_thread: InThread,
        user_files: IUserFiles | None = None,
    ) -> None:
        self.on_followed: Callable[[int, bool], bool] = lambda _job_id, _is_followed: False
        self._directory = directory
        self._filesystem = filesystem
        self._in_thread = in_thread
        self._user_files = user_files
        self._progress = ProgressFiles(filesystem, self._open_user_progress)
        self._block_files = BlockFiles(f"{directory}/input", filesystem)
        self.environments = EnvironmentFiles(f"{directory}/input", filesystem, in_thread)
        self._open_attempts: dict[int, _OpenAttempt] = {}
        self._observers: dict[int, OutputObservers] = {}

    def open(self) -> None:
        """Create the directories; raises OSError."""
        for name in ("output", "input", "progress"):
            self._filesystem.make_directory(os.path.join(self._directory, name))

    def sweep(
        self,
        attempts_of: Callable[[int], int | None],
        running: Container[int],
        schedule_files: Container[str] = (),
        script_file_of: Callable[[int], int | None] = lambda _: 0,
        environments: Container[str] = (),
    ) -> int:
        """Remove the files of unknown jobs, schedules and environments; see ``sweep.remove_stray_files``."""
        return sweep.remove_stray_files(
            self._directory,
            self._filesystem,
            attempts_of,
            running,
            schedule_files,
            script_file_of,
            environments,
        )

    # Input.

    def store_blocks(self, job_id: int, blocks: dict[str, bytes]) -> "Deferred[None]":
        return self._in_thread(self._block_files.write, self._block_paths(job_id, blocks), blocks)

    def link_blocks(self, job_id: int, blocks: ScheduleBlocks) -> "Deferred[None]":
        return self._in_thread(self._block_files.link, self._block_paths(job_id, blocks.names), blocks)

    def store_schedule(
        self, blocks: ScheduleBlocks, contents: Mapping[str, bytes], before: ScheduleBlocks
    ) -> "Deferred[str | None]":
        return self._in_thread(self._block_files.store, blocks, contents, before)

    def read_schedule_block(self, blocks: ScheduleBlocks, name: str) -> bytes:
        return self._block_files.read(blocks, name)

    def remove_schedule(self, blocks: ScheduleBlocks) -> "Deferred[None]":
        return self._in_thread(self._block_files.remove, blocks)

    def _block_paths(self, job_id: int, names: Iterable[str]) -> dict[str, str]:
        return {name: self.path(job_id, name) for name in names}

    def digest(self, blocks: Sequence[bytes]) -> "Deferred[str]":
        if sum(map(len, blocks)) <= MAX_BLOCKING_HASH:
            return succeed(_digest(blocks))
        return self._in_thread(_digest, blocks)

    def read_block(self, job_id: int, name: str) -> bytes:
        return self._filesystem.read_file(self.path(job_id, name))

    def replace_script(
        self, job_id: int, file: int, script: bytes | None, has_stdin: bool
    ) -> "Deferred[str | None]":
        stdin_path = self.path(job_id, "stdin") if has_stdin else None
        path = self.path(job_id, "script", file)
        return self._in_thread(self._block_files.replace_script, path, script, stdin_path)

    def remove_script(self, job_id: int, file: int) -> "Deferred[None]":
        return self._in_thread(self._filesystem.remove, self.path(job_id, "script", file))

    def read_script(self, job_id: int, file: int, offset: int, length: int) -> "Deferred[bytes]":
        return self._in_thread(self._read, self.path(job_id, "script", file), offset, length)

    def path(self, job_id: int, name: str, file: int = 0) -> str:
        if name == "progress":
            return f"{self._directory}/progress/{job_id}"
        number = f".{file}" if file else ""
        return f"{self._directory}/input/{job_id // _JOBS_PER_DIRECTORY}/{job_id}{number}.{name}"

    # Attempts and their output.

    def output_paths(self, job_id: int, attempt: int) -> dict[int, str]:
        return {stream: self._output_path(job_id, attempt, stream) for stream in STREAMS}

    def order_path(self, job_id: int, attempt: int) -> str:
        return f"{self._directory}/output/{job_id // _JOBS_PER_DIRECTORY}/{job_id}.{attempt}.{ORDER}"

    def open_attempt(self, job_id: int, attempt: int) -> None:
        self._open_attempts[job_id] = _OpenAttempt(attempt)
        self._notify(job_id)

    def note_output(self, job_id: int, attempt: int, dropped: tuple[int, int]) -> None:
        current = self._open_attempts.get(job_id)
        if current is not None and current.number == attempt:
            current.dropped = dropped
            self._notify(job_id)

    def _notify(self, job_id: int) -> None:
        notify(self._observers.get(job_id, []))

    def close_attempt(self, job_id: int) -> None:
        self._open_attempts.pop(job_id, None)
        self._progress.remove(job_id, self.path(job_id, "progress"))
        if self._user_files is not None:
            self._user_files.remove(job_id)
        self._notify(job_id)

    def output_on_disk(self, job_id: int, attempt: int) -> tuple[Output, Output]:
        sizes = [self._filesystem.size(self._output_path(job_id, attempt, stream)) for stream in STREAMS]
        return Output(sizes[0] or 0), Output(sizes[1] or 0)

    def output_sizes(self, job_id: int) -> dict[str, int] | None:
        attempt = self._open_attempts.get(job_id)
        if attempt is None:
            return None
        out, err = self.output_on_disk(job_id, attempt.number)
        return {
            "stdout_bytes": out.size,
            "stderr_bytes": err.size,
            "stdout_dropped": attempt.dropped[0],
            "stderr_dropped": attempt.dropped[1],
        }

    def read_output(
        self, job_id: int, attempt: int, stream: int, offset: int, length: int
    ) -> "Deferred[bytes]":
        path = self._output_path(job_id, attempt, stream)
        current = self._open_attempts.get(job_id)
        if current is not None and current.number == attempt and self._filesystem.size(path) is None:
            return succeed(b"")  # it has printed nothing yet
        if length <= MAX_BLOCKING_READ:
            return execute(self._read, path, offset, length)
        return self._in_thread(self._read, path, offset, length)

    def _read(self, path: str, offset: int, length: int) -> bytes:
        try:
            descriptor = self._filesystem.open(path)
            try:
                return self._filesystem.read(descriptor, length, offset)
            finally:
                self._filesystem.close(descriptor)
        except OSError as error:
            raise StoreFailed(f"{path} cannot be read: {error}") from None

    def read_order(self, job_id: int, attempt: int, offset: int, length: int) -> bytes:
        path = self.order_path(job_id, attempt)
        return b"" if self._filesystem.size(path) is None else self._read(path, offset, length)

    def output_written_at(self, job_id: int, attempt: int, stream: int) -> float | None:
        return self._filesystem.modified_at(self._output_path(job_id, attempt, stream))

    def add_output_observer(self, job_id: int, on_output: Callable[[], None]) -> Callable[[], None]:
        remove, _ = self._follow(job_id, on_output)
        return remove

    def flush_output(self, job_id: int) -> "Deferred[None]":
        if job_id not in self._open_attempts or job_id in self._observers:
            return succeed(None)  # what is followed is written through already
        flushed: Deferred[None] = Deferred(lambda _: remove())

        def on_output() -> None:
            remove()
            flushed.callback(None)

        remove, is_reported = self._follow(job_id, on_output)
        if not is_reported:
            remove()
            flushed.callback(None)
        return flushed

    def _follow(self, job_id: int, on_output: Callable[[], None]) -> tuple[Callable[[], None], bool]:
        """Add an observer; return the function that removes it, and whether a runner begins to report."""
        observers, is_reported = self._observers.get(job_id), False
        if observers is None:
            observers = self._observers[job_id] = []
            is_reported = self.on_followed(job_id, True)
        observers.append(on_output)

        def remove() -> None:
            if on_output in observers:  # else it has raised an error and was removed
                observers.remove(on_output)
            if not observers and self._observers.get(job_id) is observers:
                del self._observers[job_id]
                self.on_followed(job_id, False)

        return remove, is_reported

    # Files that are sent to a runner, which opens none itself.

    def create_output(self, job_id: int, attempt: int, name: str) -> int:
        """Make the file for the ``stdout`` or ``stderr`` of an attempt and open it; raises OSError."""
        stream = {"stdout": 1, "stderr": 2}[name]
        return self._filesystem.create_with_parents(self._output_path(job_id, attempt, stream))

    def open_block(self, job_id: int, name: str, file: int = 0) -> int:
        """Open a job's ``script``, which is in the file of this number, or ``stdin``; raises OSError."""
        return self._filesystem.open(self.path(job_id, name, file))

    def finish_output(self, job_id: int, attempt: int) -> "Deferred[None]":
        """Remove the files that an attempt has left empty, and make the names of the others durable."""
        paths = [self._output_path(job_id, attempt, stream) for stream in STREAMS]

        def finish() -> None:
            sizes = [self._filesystem.size(path) for path in paths]
            for path, size in zip(paths, sizes, strict=True):
                if size == 0:
                    self._filesystem.remove(path)
            if any(sizes):
                self._filesystem.sync_directory(os.path.dirname(paths[0]))

        return self._in_thread(finish)

    # Progress, and the end of a job.

    def read_progress(self, job_id: int) -> Progress:
        return self._progress.read(job_id, self.path(job_id, "progress"))

    def _open_user_progress(self, job_id: int) -> int | None:
        return None if self._user_files is None else self._user_files.open_progress(job_id)

    def remove_jobs(self, attempts: Mapping[int, int]) -> "Deferred[None]":
        return self._in_thread(self._remove_jobs, dict(attempts))

    def _remove_jobs(self, attempts: Mapping[int, int]) -> None:
        why: OSError | None = None
        directories: set[str] = set()
        for job_id, count in attempts.items():
            for path in self._paths(job_id, count):
                directories.add(os.path.dirname(path))
                try:
                    self._filesystem.remove(path)
                except OSError as error:
                    why = error
        for directory in directories:
            self._filesystem.remove_empty_directory(directory)
        if why is not None:
            raise why

    def _paths(self, job_id: int, attempts: int) -> Iterator[str]:
        """Yield the paths of all files that a job may have."""
        for name in ("script", "stdin", "secret"):
            yield self.path(job_id, name)
        yield self.path(job_id, "script", 1)
        for number in range(1, attempts + 1):
            for stream in STREAMS:
                yield self._output_path(job_id, number, stream)
            yield self.order_path(job_id, number)

    def _output_path(self, job_id: int, attempt: int, stream: int) -> str:
        directory = f"{self._directory}/output/{job_id // _JOBS_PER_DIRECTORY}"
        return f"{directory}/{job_id}.{attempt}.{STREAMS[stream]}"


def _digest(blocks: Sequence[bytes]) -> str:
    digest = sha256()
    for content in blocks:
        digest.update(content)
    return digest.hexdigest()
