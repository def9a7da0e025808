"""Describes jobs for clients: progress, documents, and output.

The output of a running attempt is read from its open files; that of an ended attempt from the journal, where
short output is stored with the end of the attempt, or from a file of the spool. Nothing here changes
anything.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from taskqd.errors import NotFinished, StoreFailed, TooLarge, WrongState
from taskqd.model.events import Compacted, Ended
from taskqd.model.job import Attempt, Job, Reason, Status
from taskqd.model.progress import Progress
from taskqd.protocol import documents, replies, values
from taskqd.storage.interfaces import IEventReader, IJournal, ISpool

STREAMS = {"stdout": 1, "stderr": 2}
"""The file descriptors of the streams."""


class JobView:
    """Reads what the queue state, the journal and the spool have of a job.

    `reason(job)` returns the reason of its status now, `not_before(job)` the time of day before which it does
    not start, `is_stopped(pid, pid_started)` whether a process is stopped by a signal, `memory_use(job_id)`
    what the running attempt of a job uses, and its peak, if that is known.
    """

    def __init__(
        self,
        journal: IJournal,
        spool: ISpool,
        reason: Callable[[Job], Reason | None],
        not_before: Callable[[Job], float | None],
        is_stopped: Callable[[int, int | None], bool],
        memory_use: Callable[[int], tuple[int, int] | None] = lambda _: None,
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._reason = reason
        self._not_before = not_before
        self._is_stopped = is_stopped
        self._memory_use = memory_use

    def progress(self, job: Job) -> Progress:
        """Return the progress in percent: 100 if completed, else the last one that it reported.

        For an array, it is the percentage of its tasks that have ended. Only running jobs have a text.
        """
        if job.status is Status.COMPLETED:
            return Progress(100)
        if job.tasks is not None:
            ended = sum(count for status, count in job.tasks.counts.items() if status.is_final)
            return Progress(100 * ended // job.tasks.count)
        if job.status is Status.RUNNING:
            return self._spool.read_progress(job.id)
        return Progress(job.attempt.progress if job.attempt and job.status.is_final else 0)

    def describe(self, job: Job) -> dict[str, Any]:
        """Return the job as a JSON document; output and memory of a running job are those of now."""
        progress = self.progress(job)
        document = documents.describe(job, progress.percent, self._reason(job))
        if progress.text:
            document["progress_text"] = progress.text
        document["not_before"] = values.timestamp(self._not_before(job))
        return {**document, **self._current_sizes(job), **self._current_memory(job)}

    def show(self, job: Job) -> dict[str, Any]:
        """Return the job as a JSON document with all of its attempts."""
        attempts = documents.describe_attempts(job)
        if attempts:
            attempts[-1].update({**self._current_sizes(job), **self._current_memory(job)})
        stopped = {"stopped": True} if self._has_stopped_process(job) else {}
        return {**self.describe(job), **self._environment(job), **stopped, "runs": attempts}

    def _environment(self, job: Job) -> dict[str, Any]:
        """Return what is shown of the environment that a job has of its client: the names in its file."""
        environment = job.spec.environment
        if environment is None:
            return {}
        try:
            names = list(self._spool.environments.read(environment))
        except (OSError, ValueError):  # the job cannot start, and the detail of its attempt will say why
            names = None
        return {"environment": {"sha256": environment.sha256, "size": environment.size, "names": names}}

    def _has_stopped_process(self, job: Job) -> bool:
        attempt = job.attempt
        if job.status is not Status.RUNNING or attempt is None or attempt.pid is None:
            return False
        return self._is_stopped(attempt.pid, attempt.pid_started)

    def _current_sizes(self, job: Job) -> dict[str, int]:
        """Return the sizes of a running job's output, named as in JSON; for any other job, nothing."""
        return (self._spool.output_sizes(job.id) if job.status is Status.RUNNING else None) or {}

    def _current_memory(self, job: Job) -> dict[str, int]:
        """Return what a running job with a limit of memory uses, named as in JSON."""
        if job.spec.memory_max is None or job.status is not Status.RUNNING:
            return {}
        use = self._memory_use(job.id)
        return {} if use is None else {"memory_used": use[0], "memory_used_peak": use[1]}

    def attempts(self, job: Job) -> list[Attempt]:
        """Return the known attempts of a job, oldest first. After many attempts the oldest are not known."""
        return [*job.past, *([job.attempt] if job.attempt is not None else [])]

    def attempt(self, job: Job, number: int | None) -> Attempt | None:
        """Return an attempt by its number, or for None the latest one, which is None before the first.

        Raises WrongState for a number that is not known.
        """
        if number is None:
            return job.attempt
        known = self.attempts(job)
        found = next((attempt for attempt in known if attempt.number == number), None)
        if found is None:
            numbers = f"{known[0].number} to {known[-1].number}" if known else "none"
            raise WrongState(f"job {job.id} has no attempt {number}; known attempts: {numbers}")
        return found

    def stream_size(self, job: Job, stream: str, number: int | None = None) -> int:
        """Return how many bytes of a stream can be read now, by default of the latest attempt.

        Raises WrongState for the stream `script` of a job that has none.
        """
        if stream == "script":
            return _script_size(job)
        attempt = self.attempt(job, number)
        if attempt is None:
            return 0
        if attempt is job.attempt and (sizes := self._current_sizes(job)):
            return sizes[f"{stream}_bytes"]
        return int(getattr(attempt, f"{stream}_bytes"))

    def read(
        self, job: Job, stream: str, offset: int, length: int, number: int | None = None
    ) -> "Deferred[bytes]":
        """Return a part of a stream, by default of the latest attempt; shorter or empty at its end.

        Raises WrongState for an attempt that is not known. Fails with StoreFailed or OSError if the output
        exists but cannot be read, and with StoreFailed if the file of an ended attempt was truncated.
        """
        if stream == "script":
            return self._spool.read_script(job.array or job.id, job.spec.script_file, offset, length)
        attempt = self.attempt(job, number)
        size = self.stream_size(job, stream, number)
        length = min(length, size - offset)
        if attempt is None or length <= 0:
            return succeed(b"")
        if attempt.record is not None and getattr(attempt, f"{stream}_inline"):
            return succeed(self._read_inline(attempt, stream)[offset : offset + length])
        reading = self._spool.read_output(job.id, attempt.number, STREAMS[stream], offset, length)
        if attempt is job.attempt and job.status is Status.RUNNING:
            return reading

        def check_length(data: bytes) -> bytes:
            if len(data) < length:
                raise StoreFailed(
                    f"{stream} of attempt {attempt.number} of job {job.id} is truncated: it had {size} bytes "
                    f"when the attempt ended, and its file has {offset + len(data)}"
                )
            return data

        return reading.addCallback(check_length)

    def dropped(self, job: Job, stream: str, number: int | None = None) -> int:
        """Return how many bytes of a stream were not kept, by default of the latest attempt."""
        attempt = self.attempt(job, number)
        if attempt is None:
            return 0
        sizes = self._current_sizes(job) if attempt is job.attempt else {}
        return int(sizes.get(f"{stream}_dropped", getattr(attempt, f"{stream}_dropped")))

    def recorded_order(self, attempt: Attempt) -> bytes:
        """Return the order of the output of an ended attempt that the journal has; nothing if it has none."""
        ended = self._read_end(attempt)
        return b"" if ended is None or ended.order is None else ended.order.encode("ascii")

    def read_order(self, job: Job, number: int, offset: int, length: int) -> bytes:
        """Return a part of the file with the order of an attempt's output; nothing if there is none.

        Raises StoreFailed.
        """
        return self._spool.read_order(job.id, number, offset, length)

    def written_at(self, job: Job, stream: str, number: int) -> float | None:
        """Return the time of the last output of a stream, up to 0.1 s late; None if it is unknown."""
        attempt = self.attempt(job, number)
        if attempt is not None and attempt.record is not None and getattr(attempt, f"{stream}_inline"):
            return attempt.ended_at
        return self._spool.output_written_at(job.id, number, STREAMS[stream])

    def flush(self, job: Job) -> "Deferred[None]":
        """Fire when all that a running job has printed can be read; may be cancelled."""
        return self._spool.flush_output(job.id)

    def follow(self, job_id: int, on_output: Callable[[], None]) -> Callable[[], None]:
        """Call `on_output` when there may be more output of a job; returns a function that ends this."""
        return self._spool.add_output_observer(job_id, on_output)

    def check_result(self, job: Job) -> dict[str, int]:
        """Return the sizes of both streams of a finished job; raises NotFinished and TooLarge."""
        if not job.status.is_final:
            raise NotFinished(f"job {job.id} is {job.status.value}; WAIT {job.id} answers when it has ended")
        sizes = {stream: self.stream_size(job, stream) for stream in STREAMS}
        if max(sizes.values()) > replies.MAX_RESULT_STREAM:
            raise TooLarge(
                f"stdout has {sizes['stdout']} bytes and stderr {sizes['stderr']}, the limit of RESULT is "
                f"{replies.MAX_RESULT_STREAM} each; read them with OUTPUT {job.id}"
            )
        return sizes

    async def read_both_streams(self, job: Job) -> tuple[bytes, bytes]:
        """Return stdout and stderr of a finished job; raises NotFinished, TooLarge and StoreFailed."""
        sizes = self.check_result(job)
        stdout = await self.read(job, "stdout", 0, sizes["stdout"])
        return stdout, await self.read(job, "stderr", 0, sizes["stderr"])

    def history(self, *job_ids: int) -> IEventReader:
        """Return a reader of all events of some jobs that the journal has."""
        return self._journal.events_of(*job_ids)

    def _read_inline(self, attempt: Attempt, stream: str) -> bytes:
        ended = self._read_end(attempt)
        return b"" if ended is None else getattr(ended, stream).data or b""

    def _read_end(self, attempt: Attempt) -> Ended | None:
        """Return the record of the end of an attempt, None if there is none; raises StoreFailed."""
        ended = self._journal.read(attempt.record) if attempt.record else None
        if isinstance(ended, Compacted):
            ended = ended.end_of(attempt.number)
        return ended if isinstance(ended, Ended) else None


def _script_size(job: Job) -> int:
    if job.spec.script is None:
        raise WrongState(f"job {job.id} has no script; `taskq show {job.id}` shows its command")
    return job.spec.script
