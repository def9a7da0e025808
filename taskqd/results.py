"""What is to be seen of a job: its progress, its description, and what it printed, wherever that lies.

Output is in the recording while the attempt runs, and then either in the journal, beside the attempt's end,
or in a file of the spool. Nothing here changes anything.
"""

from typing import Any

from twisted.internet.defer import Deferred, succeed

from taskqd import replies
from taskqd.errors import NotFinished, TooLarge
from taskqd.events import Ended, Event
from taskqd.interfaces import ISpool, IStore
from taskqd.job import Attempt, Job, Status

STREAMS = {"stdout": 1, "stderr": 2}


class Results:
    """Reads for people and scripts what the store and the spool have."""

    def __init__(self, store: IStore, spool: ISpool) -> None:
        self._store = store
        self._spool = spool

    def progress(self, job: Job) -> int:
        """Return a whole percentage: 100 for a completed job, else what it reported last."""
        if job.status is Status.COMPLETED:
            return 100
        if job.status is Status.RUNNING:
            return self._spool.progress(job.id)
        return job.attempt.progress if job.attempt and job.status.is_final else 0

    def describe(self, job: Job) -> dict[str, Any]:
        """Return the job as JSON has it; the sizes of a running one are those of this moment."""
        sizes = self._spool.sizes(job.id) if job.status is Status.RUNNING else None
        return {**replies.describe(job, self.progress(job)), **(sizes or {})}

    def size(self, job: Job, stream: str) -> int:
        """Return how many bytes of a stream can be read at this moment."""
        sizes = self._spool.sizes(job.id) if job.status is Status.RUNNING else None
        if sizes is not None:
            return sizes[f"{stream}_bytes"]
        return getattr(job.attempt, f"{stream}_bytes") if job.attempt else 0

    def read(self, job: Job, stream: str, offset: int, length: int) -> "Deferred[bytes]":
        """Return a piece of a stream of the latest attempt, shorter or empty where it ends.

        Fails with StoreFailed or OSError if it is there but can't be read.
        """
        attempt = job.attempt
        length = min(length, self.size(job, stream) - offset)
        if attempt is None or length <= 0:
            return succeed(b"")
        if attempt.record is not None and getattr(attempt, f"{stream}_inline"):
            return succeed(self._inline(attempt, stream)[offset : offset + length])
        return self._spool.read(job.id, attempt.number, STREAMS[stream], offset, length)

    async def both(self, job: Job) -> tuple[bytes, bytes]:
        """Return all of stdout and stderr of a finished job; raises NotFinished, TooLarge and StoreFailed."""
        if not job.status.is_final:
            raise NotFinished(f"job {job.id} is {job.status.value}; WAIT {job.id} answers when it has ended")
        sizes = {stream: self.size(job, stream) for stream in STREAMS}
        if max(sizes.values()) > replies.LARGEST_RESULT:
            raise TooLarge(
                f"stdout has {sizes['stdout']} bytes and stderr {sizes['stderr']}, and RESULT sends up to "
                f"{replies.LARGEST_RESULT} of each; read them with OUTPUT {job.id}"
            )
        stdout = await self.read(job, "stdout", 0, sizes["stdout"])
        return stdout, await self.read(job, "stderr", 0, sizes["stderr"])

    def history(self, job_id: int) -> "Deferred[list[tuple[int, Event]]]":
        """Return (sequence, event) of all that the journal has of a job; fails with StoreFailed."""
        return self._store.find(job_id)

    def _inline(self, attempt: Attempt, stream: str) -> bytes:
        ended = self._store.read(attempt.record) if attempt.record else None
        output = getattr(ended, stream) if isinstance(ended, Ended) else None
        return (output.data if output else None) or b""
