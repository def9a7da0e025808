"""Input that users send to interactive jobs while these run; it is not durable, and in no journal."""

from collections.abc import Callable

from twisted.internet.defer import Deferred

from taskqd.errors import TimedOut, WrongState
from taskqd.execution.interfaces import IExecutor
from taskqd.execution.job_inputs import Delivery, NoDelivery
from taskqd.execution.messages import SendError
from taskqd.model.actor import Actor
from taskqd.model.durations import format_duration
from taskqd.model.job import Job, Status
from taskqd.state.queue_state import QueueState

OnInput = Callable[[Actor, int, int], object]
"""Called with who has sent input, the id of the job, and the number of bytes that were written."""

_REASONS: dict[SendError | NoDelivery | None, str] = {
    SendError.CLOSED: "no longer reads its stdin: no process has it open",
    SendError.EOF: "has got the end of its input: --eof was sent",
    SendError.ENDED: "has ended",
    NoDelivery.ENDED: "has ended",
}
"""Why a job gets no more input, as the end of a sentence about it."""


class JobInput:
    """Has the executor write input; it checks that the job can get any."""

    def __init__(self, queue_state: QueueState, executor: IExecutor) -> None:
        self._queue_state = queue_state
        self._executor = executor
        self._observers: list[OnInput] = []

    def add_observer(self, on_input: OnInput) -> None:
        """Call ``on_input`` with all input that was written."""
        self._observers.append(on_input)

    def send(self, job_id: int, by: Actor, data: bytes, is_eof: bool, timeout: float) -> "Deferred[int]":
        """Send input to a running job; fire with the number of bytes when its pipe has all of them.

        Fails with WrongState if the job gets no input any more, and with TimedOut if it does not read within
        ``timeout`` seconds; the text then begins with the number of bytes that were written. If the Deferred
        is cancelled, what is not written is withdrawn. Raises NoSuchJob, Gone and WrongState.
        """
        job = self._queue_state.get(job_id)
        _check_gets_input(job)
        sent = self._executor.send(job_id, data, is_eof, timeout)
        return sent.addCallback(self._on_delivery, job_id, by, len(data), timeout)

    def _on_delivery(self, delivery: Delivery, job_id: int, by: Actor, size: int, timeout: float) -> int:
        written, error = delivery
        is_unknown = error is NoDelivery.UNKNOWN
        if written or error is None or is_unknown:
            for on_input in self._observers:
                on_input(by, job_id, size if is_unknown else written)
        if error is None:
            return written
        if error in _REASONS:
            raise WrongState(f"job {job_id} {_REASONS[error]}; {written} of {size} bytes were written to it")
        if is_unknown:
            raise TimedOut(
                f"0 to {size} of {size} bytes were written: the runner of job {job_id} did not answer; look "
                "at the job's output before you send them again"
            )
        raise TimedOut(
            f"{written} of {size} bytes were written: job {job_id} did not read more within "
            f"{format_duration(timeout)}; send the rest later"
        )


def _check_gets_input(job: Job) -> None:
    """Raise WrongState if a job is not interactive, or does not run."""
    if not job.spec.interactive:
        raise WrongState(f"job {job.id} is not interactive; submit it with --interactive to send it input")
    if job.status is not Status.RUNNING:
        raise WrongState(f"job {job.id} is {job.status.value}; only a running job gets input")
