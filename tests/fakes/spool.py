"""A spool in memory."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from taskqd.errors import StoreFailed
from taskqd.model.environment import Environment, unpack_environment
from taskqd.model.events import Output
from taskqd.model.progress import Progress
from taskqd.model.schedule import ScheduleBlocks
from taskqd.storage.interfaces import IEnvironmentFiles, IOutputWriter, ISpool


@implementer(IOutputWriter)
class FakeOutputWriter:
    """Keeps output in memory; `close` returns it, or the test's error, once ``closing`` has fired."""

    def __init__(self, attempt: int = 1) -> None:
        self.attempt = attempt
        self.data = {1: b"", 2: b""}
        self.is_closed = False
        self.error: OSError | None = None
        self.closing: Deferred[None] = succeed(None)
        self.observers: list[Callable[[], None]] = []
        self.on_backpressure: Callable[[bool], None] = lambda _: None
        self.on_failure: Callable[[str], None] = lambda _: None
        self.order: str | None = None

    def write(self, stream: int, data: bytes) -> None:
        assert not self.is_closed
        self.data[stream] += data
        for observer in tuple(self.observers):
            observer()

    def set_callbacks(self, choked: Callable[[bool], None], failed: Callable[[str], None]) -> None:
        self.on_backpressure, self.on_failure = choked, failed

    def close(self) -> "Deferred[tuple[Output, Output]]":
        assert not self.is_closed
        self.is_closed = True
        return self.closing.addCallback(self._outputs)

    def _outputs(self, _: None) -> tuple[Output, Output]:
        if self.error is not None:
            raise self.error
        return Output.inline(self.data[1]), Output.inline(self.data[2])


def script_name(file: int) -> str:
    """Return the name of the block that is a job's script in its file of this number."""
    return f"{file}.script" if file else "script"


@implementer(IEnvironmentFiles)
class FakeEnvironmentFiles:
    """Files of environments in memory, by their hashes.

    With ``is_slow`` the Deferreds of writes and removals wait in ``pending``, and fail with an ``error``.
    """

    def __init__(self) -> None:
        self.blocks: dict[str, bytes] = {}
        self.stored: list[str] = []
        self.is_slow = False
        self.pending: list[Deferred[None]] = []
        self.error: Exception | None = None

    def exists(self, environment: Environment) -> bool:
        return environment.sha256 in self.blocks

    def store(self, environment: Environment, block: bytes) -> "Deferred[None]":
        return self._change(lambda: self._store(environment.sha256, block))

    def _store(self, sha256: str, block: bytes) -> None:
        self.blocks[sha256] = block
        self.stored.append(sha256)

    def read(self, environment: Environment) -> Mapping[str, str]:
        if environment.sha256 not in self.blocks:
            raise FileNotFoundError(2, "No such file or directory", environment.sha256)
        return unpack_environment(self.blocks[environment.sha256], environment)

    def remove(self, sha256: str) -> "Deferred[None]":
        return self._change(lambda: self.blocks.pop(sha256, None))

    def _change(self, change: Callable[[], object]) -> "Deferred[None]":
        if self.error is not None:
            return fail(self.error)
        done: Deferred[None] = Deferred()
        done.addCallback(lambda _: change()).addCallback(lambda _: None)
        if self.is_slow:
            self.pending.append(done)
        else:
            done.callback(None)
        return done


@implementer(ISpool)
class FakeSpool:
    """A spool in memory; ``leftovers`` has by (job, attempt) the output that a crash has left.

    ``schedule_files`` has the content of the files of schedules by their names.
    """

    def __init__(self) -> None:
        self.environments = FakeEnvironmentFiles()
        self.blocks: dict[int, dict[str, bytes]] = {}
        self.schedule_files: dict[str, bytes] = {}
        self.pending_writes: list[Deferred[None]] = []
        self.is_slow = False
        self.error: Exception | None = None
        self.writers: dict[int, FakeOutputWriter] = {}
        self.closed_attempts: list[int] = []
        self.flushed: list[int] = []
        self.flushing: Deferred[None] | None = None
        self.leftovers: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        self.orders: dict[tuple[int, int], bytes] = {}
        self.written_at: float | None = None
        self.percentages: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        self.removed: list[tuple[int, int]] = []
        self.observers: defaultdict[int, list[Callable[[], None]]] = defaultdict(list)

    def store_blocks(self, job_id: int, blocks: dict[str, bytes]) -> "Deferred[None]":
        self.blocks[job_id] = blocks
        if self.error is not None:
            return fail(self.error)
        if not self.is_slow:
            return succeed(None)
        self.pending_writes.append(Deferred())
        return self.pending_writes[-1]

    def link_blocks(self, job_id: int, blocks: ScheduleBlocks) -> "Deferred[None]":
        try:
            content = {name: self.read_schedule_block(blocks, name) for name in blocks.names}
        except FileNotFoundError as why:
            return fail(why)
        return self.store_blocks(job_id, content)

    def store_schedule(
        self, blocks: ScheduleBlocks, contents: Mapping[str, bytes], before: ScheduleBlocks
    ) -> "Deferred[str | None]":
        kept = {name: self.schedule_files.get(before.file_name(name), b"") for name in blocks.names}
        stored = {**kept, **contents}
        self.schedule_files |= {blocks.file_name(name): stored[name] for name in blocks.names}
        if self.error is not None:
            return fail(self.error)
        content = [stored[name] for name in blocks.names if name != "secret"]
        return succeed(sha256(b"".join(content)).hexdigest() if content else None)

    def read_schedule_block(self, blocks: ScheduleBlocks, name: str) -> bytes:
        if blocks.file_name(name) not in self.schedule_files:
            raise FileNotFoundError(2, "No such file or directory", blocks.file_name(name))
        return self.schedule_files[blocks.file_name(name)]

    def remove_schedule(self, blocks: ScheduleBlocks) -> "Deferred[None]":
        for name in blocks.file_names:
            self.schedule_files.pop(name, None)
        return succeed(None) if self.error is None else fail(self.error)

    def replace_script(
        self, job_id: int, file: int, script: bytes | None, has_stdin: bool
    ) -> "Deferred[str | None]":
        blocks = self.blocks.setdefault(job_id, {})
        if script is not None:
            blocks[script_name(file)] = script
        content = [] if script is None else [script]
        content += [blocks["stdin"]] if has_stdin else []
        digest = sha256(b"".join(content)).hexdigest() if content else None
        if self.error is not None:
            return fail(self.error)
        if not self.is_slow:
            return succeed(digest)
        self.pending_writes.append(Deferred())
        return self.pending_writes[-1].addCallback(lambda _: digest)

    def remove_script(self, job_id: int, file: int) -> "Deferred[None]":
        self.blocks[job_id].pop(script_name(file), None)
        return succeed(None) if self.error is None else fail(self.error)

    def read_script(self, job_id: int, file: int, offset: int, length: int) -> "Deferred[bytes]":
        content = self.blocks.get(job_id, {}).get(script_name(file))
        if content is None:
            return fail(StoreFailed(f"there is no script of job {job_id}"))
        return succeed(content[offset : offset + length])

    def digest(self, blocks: Sequence[bytes]) -> "Deferred[str]":
        return succeed(sha256(b"".join(blocks)).hexdigest())

    def read_block(self, job_id: int, name: str) -> bytes:
        if name not in self.blocks.get(job_id, {}):
            raise FileNotFoundError(2, "No such file or directory", self.path(job_id, name))
        return self.blocks[job_id][name]

    def path(self, job_id: int, name: str, file: int = 0) -> str:
        return f"/spool/{job_id}.{script_name(file) if name == 'script' else name}"

    def output_paths(self, job_id: int, attempt: int) -> dict[int, str]:
        return {stream: f"/spool/{job_id}.{attempt}.{stream}" for stream in (1, 2)}

    def order_path(self, job_id: int, attempt: int) -> str:
        return f"/spool/{job_id}.{attempt}.order"

    def read_order(self, job_id: int, attempt: int, offset: int, length: int) -> bytes:
        return self.orders.get((job_id, attempt), b"")[offset : offset + length]

    def output_written_at(self, job_id: int, attempt: int, stream: int) -> float | None:
        return self.written_at

    def open_attempt(self, job_id: int, attempt: int) -> None:
        assert job_id not in self.writers, "the attempt before was not closed"
        writer = self.writers[job_id] = FakeOutputWriter(attempt)
        writer.observers = self.observers[job_id]
        self._notify(job_id)

    def note_output(self, job_id: int, attempt: int, dropped: tuple[int, int]) -> None:
        self._notify(job_id)

    def add_output_observer(self, job_id: int, on_output: Callable[[], None]) -> Callable[[], None]:
        self.observers[job_id].append(on_output)
        return partial(self.observers[job_id].remove, on_output)

    def flush_output(self, job_id: int) -> "Deferred[None]":
        self.flushed.append(job_id)
        return self.flushing or succeed(None)

    def _notify(self, job_id: int) -> None:
        for observer in tuple(self.observers[job_id]):
            observer()

    def output_on_disk(self, job_id: int, attempt: int) -> tuple[Output, Output]:
        stdout, stderr = self.leftovers.get((job_id, attempt), (b"", b""))
        return Output(len(stdout)), Output(len(stderr))

    def output_sizes(self, job_id: int) -> dict[str, int] | None:
        if job_id not in self.writers:
            return None
        data = self.writers[job_id].data
        return {
            "stdout_bytes": len(data[1]),
            "stderr_bytes": len(data[2]),
            "stdout_dropped": 0,
            "stderr_dropped": 0,
        }

    def read_output(
        self, job_id: int, attempt: int, stream: int, offset: int, length: int
    ) -> "Deferred[bytes]":
        if job_id in self.writers and self.writers[job_id].attempt == attempt:
            content = self.writers[job_id].data[stream]
        elif (job_id, attempt) in self.leftovers:
            content = self.leftovers[job_id, attempt][stream - 1]
        else:
            return fail(StoreFailed(f"there is no output of attempt {attempt} of job {job_id}"))
        return succeed(content[offset : offset + length])

    def read_progress(self, job_id: int) -> Progress:
        return Progress(self.percentages.get(job_id, 0), self.texts.get(job_id, ""))

    def remove_jobs(self, attempts: Mapping[int, int]) -> "Deferred[None]":
        if self.error is not None:
            return fail(self.error)
        self.removed.extend(attempts.items())
        return succeed(None)

    def close_attempt(self, job_id: int) -> None:
        self.closed_attempts.append(job_id)
        self.writers.pop(job_id, None)
        self.percentages.pop(job_id, None)
        self.texts.pop(job_id, None)
        self._notify(job_id)
