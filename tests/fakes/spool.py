"""A spool in memory."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from taskqd.errors import StoreFailed
from taskqd.model.events import Output
from taskqd.storage.interfaces import IOutputWriter, ISpool


@implementer(IOutputWriter)
class FakeOutputWriter:
    """Keeps what it is given; ``close`` gives it back, or the test's error, once the test lets it."""

    def __init__(self, attempt: int = 1) -> None:
        self.attempt = attempt
        self.data = {1: b"", 2: b""}
        self.is_closed = False
        self.error: OSError | None = None
        self.closing: Deferred[None] = succeed(None)
        self.followers: list[Callable[[], None]] = []
        self.choke: Callable[[bool], None] = lambda _: None
        self.fail: Callable[[str], None] = lambda _: None

    def write(self, stream: int, data: bytes) -> None:
        assert not self.is_closed
        self.data[stream] += data
        for follower in tuple(self.followers):
            follower()

    def watch(self, choked: Callable[[bool], None], failed: Callable[[str], None]) -> None:
        self.choke, self.fail = choked, failed

    def close(self) -> "Deferred[tuple[Output, Output]]":
        assert not self.is_closed
        self.is_closed = True
        return self.closing.addCallback(self._outputs)

    def _outputs(self, _: None) -> tuple[Output, Output]:
        if self.error is not None:
            raise self.error
        return Output.inline(self.data[1]), Output.inline(self.data[2])


@implementer(ISpool)
class FakeSpool:
    """What jobs print, in memory. ``on_disk`` has by (job, attempt) what a crash has left there."""

    def __init__(self) -> None:
        self.blocks: dict[int, dict[str, bytes]] = {}
        self.keeping: list[Deferred[None]] = []
        self.is_slow = False
        self.error: Exception | None = None
        self.recordings: dict[int, FakeOutputWriter] = {}
        self.limits: dict[int, int] = {}
        self.released: list[int] = []
        self.on_disk: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        self.percentages: dict[int, int] = {}
        self.purged: list[tuple[int, int]] = []
        self.followers: defaultdict[int, list[Callable[[], None]]] = defaultdict(list)

    def keep(self, job_id: int, blocks: dict[str, bytes]) -> "Deferred[None]":
        self.blocks[job_id] = blocks
        if self.error is not None:
            return fail(self.error)
        if not self.is_slow:
            return succeed(None)
        self.keeping.append(Deferred())
        return self.keeping[-1]

    def digest(self, blocks: Sequence[bytes]) -> "Deferred[str]":
        return succeed(sha256(b"".join(blocks)).hexdigest())

    def block(self, job_id: int, name: str) -> bytes:
        if name not in self.blocks.get(job_id, {}):
            raise FileNotFoundError(2, "No such file or directory", self.path(job_id, name))
        return self.blocks[job_id][name]

    def path(self, job_id: int, name: str) -> str:
        return f"/spool/{job_id}.{name}"

    def record(self, job_id: int, attempt: int, limit: int) -> FakeOutputWriter:
        assert job_id not in self.recordings, "the attempt before was not released"
        self.limits[job_id] = limit
        recording = self.recordings[job_id] = FakeOutputWriter(attempt)
        recording.followers = self.followers[job_id]
        self._tell(job_id)
        return recording

    def follow(self, job_id: int, told: Callable[[], None]) -> Callable[[], None]:
        self.followers[job_id].append(told)
        return partial(self.followers[job_id].remove, told)

    def _tell(self, job_id: int) -> None:
        for follower in tuple(self.followers[job_id]):
            follower()

    def recorded(self, job_id: int, attempt: int) -> tuple[Output, Output]:
        stdout, stderr = self.on_disk.get((job_id, attempt), (b"", b""))
        return Output(len(stdout)), Output(len(stderr))

    def sizes(self, job_id: int) -> dict[str, int] | None:
        if job_id not in self.recordings:
            return None
        data = self.recordings[job_id].data
        return {
            "stdout_bytes": len(data[1]),
            "stderr_bytes": len(data[2]),
            "stdout_dropped": 0,
            "stderr_dropped": 0,
        }

    def read(self, job_id: int, attempt: int, stream: int, offset: int, length: int) -> "Deferred[bytes]":
        if job_id in self.recordings and self.recordings[job_id].attempt == attempt:
            content = self.recordings[job_id].data[stream]
        elif (job_id, attempt) in self.on_disk:
            content = self.on_disk[job_id, attempt][stream - 1]
        else:
            return fail(StoreFailed(f"there is no output of attempt {attempt} of job {job_id}"))
        return succeed(content[offset : offset + length])

    def progress(self, job_id: int) -> int:
        return self.percentages.get(job_id, 0)

    def purge(self, job_id: int, attempts: int) -> "Deferred[None]":
        if self.error is not None:
            return fail(self.error)
        self.purged.append((job_id, attempts))
        return succeed(None)

    def release(self, job_id: int) -> None:
        self.released.append(job_id)
        self.recordings.pop(job_id, None)
        self.percentages.pop(job_id, None)
        self._tell(job_id)
