"""What is to be seen of a job: its progress, its description, and what it printed, wherever that lies.

Output is in the recording while the attempt runs, and then either in the journal, beside the attempt's end,
or in a file of the spool. Nothing here changes anything.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from taskqd.errors import NotFinished, StoreFailed, TooLarge, WrongState
from taskqd.execution import proc
from taskqd.model.events import Ended
from taskqd.model.job import Attempt, Job, Reason, Status
from taskqd.protocol import documents, replies, values
from taskqd.storage.interfaces import IEventReader, IJournal, ISpool

STREAMS = {"stdout": 1, "stderr": 2}


class JobView:
    """Reads for people and scripts what the store and the spool have.

    ``reason(job)`` is why a job is where it is at this moment, ``not_before(job)`` the time of day before
    which it does not start.
    """

    def __init__(
        self,
        store: IJournal,
        spool: ISpool,
        reason: Callable[[Job], Reason | None],
        not_before: Callable[[Job], float | None],
    ) -> None:
        self._store = store
        self._spool = spool
        self._reason = reason
        self._not_before = not_before

    def progress(self, job: Job) -> int:
        """Return a whole percentage: 100 for a completed job, else what it reported last.

        For an array it is how many of its tasks have ended.
        """
        if job.status is Status.COMPLETED:
            return 100
        if job.tasks is not None:
            ended = sum(count for status, count in job.tasks.counts.items() if status.is_final)
            return 100 * ended // job.tasks.count
        if job.status is Status.RUNNING:
            return self._spool.read_progress(job.id)
        return job.attempt.progress if job.attempt and job.status.is_final else 0

    def describe(self, job: Job) -> dict[str, Any]:
        """Return the job as JSON has it; the sizes of a running one are those of this moment."""
        described = documents.describe(job, self.progress(job), self._reason(job))
        described["not_before"] = values.timestamp(self._not_before(job))
        return {**described, **self._sizes(job)}

    def show(self, job: Job) -> dict[str, Any]:
        """Return the job as JSON has it, with all its attempts."""
        runs = documents.runs(job)
        if runs:
            runs[-1].update(self._sizes(job))
        stopped = {"stopped": True} if self._is_stopped(job) else {}
        return {**self.describe(job), **stopped, "runs": runs}

    def _is_stopped(self, job: Job) -> bool:
        """Whether the first process of a running attempt is stopped."""
        attempt = job.attempt
        if job.status is not Status.RUNNING or attempt is None or attempt.pid is None:
            return False
        return proc.is_stopped(attempt.pid, attempt.pid_started)

    def _sizes(self, job: Job) -> dict[str, int]:
        """Return the sizes of what is being recorded, named as in JSON; nothing where nothing is."""
        return (self._spool.output_sizes(job.id) if job.status is Status.RUNNING else None) or {}

    def attempts(self, job: Job) -> list[Attempt]:
        """Return the attempts of a job that are known, oldest first; of very many the oldest are not."""
        return [*job.past, *([job.attempt] if job.attempt is not None else [])]

    def attempt(self, job: Job, number: int | None) -> Attempt | None:
        """Return an attempt of a job by its number, the latest one for None, which may be none yet.

        Raises WrongState for a number that is not known.
        """
        if number is None:
            return job.attempt
        known = self.attempts(job)
        found = next((attempt for attempt in known if attempt.number == number), None)
        if found is None:
            numbers = f"attempts {known[0].number} to {known[-1].number} are" if known else "none is"
            raise WrongState(f"job {job.id} has no attempt {number} that is known: {numbers}")
        return found

    def size(self, job: Job, stream: str, attempt: int | None = None) -> int:
        """Return how many bytes of a stream of an attempt, the latest unless told, can be read now."""
        of = self.attempt(job, attempt)
        if of is None:
            return 0
        if of is job.attempt and (sizes := self._sizes(job)):
            return sizes[f"{stream}_bytes"]
        return int(getattr(of, f"{stream}_bytes"))

    def read(
        self, job: Job, stream: str, offset: int, length: int, attempt: int | None = None
    ) -> "Deferred[bytes]":
        """Return a piece of a stream of an attempt, the latest unless told; shorter or empty where it ends.

        Raises WrongState for an attempt that is not known, and fails with StoreFailed or OSError if the
        output is there but can't be read, or if the file of an attempt that has ended was cut.
        """
        of = self.attempt(job, attempt)
        size = self.size(job, stream, attempt)
        length = min(length, size - offset)
        if of is None or length <= 0:
            return succeed(b"")
        if of.record is not None and getattr(of, f"{stream}_inline"):
            return succeed(self._inline(of, stream)[offset : offset + length])
        read = self._spool.read_output(job.id, of.number, STREAMS[stream], offset, length)
        if of is job.attempt and job.status is Status.RUNNING:
            return read

        def check(piece: bytes) -> bytes:
            if len(piece) < length:
                raise StoreFailed(
                    f"the {stream} of attempt {of.number} of job {job.id} had {size} bytes, and its file has "
                    f"{offset + len(piece)}: it was cut after the job had ended"
                )
            return piece

        return read.addCallback(check)

    def follow(self, job_id: int, told: Callable[[], None]) -> Callable[[], None]:
        """Have ``told`` called when there may be more to read of a job; returns what ends that."""
        return self._spool.add_output_observer(job_id, told)

    def check_result(self, job: Job) -> dict[str, int]:
        """Return the sizes of both streams of a finished job; raises NotFinished and TooLarge."""
        if not job.status.is_final:
            raise NotFinished(f"job {job.id} is {job.status.value}; WAIT {job.id} answers when it has ended")
        sizes = {stream: self.size(job, stream) for stream in STREAMS}
        if max(sizes.values()) > replies.MAX_RESULT_STREAM:
            raise TooLarge(
                f"stdout has {sizes['stdout']} bytes and stderr {sizes['stderr']}, and RESULT sends up to "
                f"{replies.MAX_RESULT_STREAM} of each; read them with OUTPUT {job.id}"
            )
        return sizes

    async def both(self, job: Job) -> tuple[bytes, bytes]:
        """Return all of stdout and stderr of a finished job; raises NotFinished, TooLarge and StoreFailed."""
        sizes = self.check_result(job)
        stdout = await self.read(job, "stdout", 0, sizes["stdout"])
        return stdout, await self.read(job, "stderr", 0, sizes["stderr"])

    def history(self, *job_ids: int) -> IEventReader:
        """Return a reading of all that the journal has of some jobs."""
        return self._store.events_of(*job_ids)

    def _inline(self, attempt: Attempt, stream: str) -> bytes:
        ended = self._store.read(attempt.record) if attempt.record else None
        output = getattr(ended, stream) if isinstance(ended, Ended) else None
        return (output.data if output else None) or b""
