"""The interfaces of the executor, for the engine."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from taskqd.execution.job_inputs import Delivery
from taskqd.execution.messages import AttemptKey, Start
from taskqd.execution.run import Outcome
from taskqd.model.job import Reason

OnSpawned = Callable[[int, "int | None"], None]
"""Called with the pid of a new process, and its start time in clock ticks since boot if it is known."""


class IExecutor(Interface):
    """Has attempts run by runners. It knows neither the journal nor the queue."""

    runner: str = Attribute("The name of the runner that accepts starts, empty if there is none.")

    unready_detail: str | None = Attribute("Why no runner accepts starts; None if one does.")

    make_start: Callable[[AttemptKey], Start] | None = Attribute("Makes the Start of an attempt again.")

    on_ready: Callable[[], object] = Attribute("Called when a runner accepts starts.")

    def start(start: Start, runner: str, on_spawned: OnSpawned) -> "Deferred[Outcome]":
        """Start an attempt at the runner that its durable Started names.

        The Deferred fires when the attempt has ended, and never fails. An attempt that cannot be started has
        an outcome, too. ``on_spawned`` is not called for a process that has exited before it was reported.
        The caller must ``acknowledge`` the end when it is durable.
        """

    def adopt(
        key: AttemptKey, runner: str, on_spawned: OnSpawned, is_newest: bool = False
    ) -> "Deferred[Outcome]":
        """Go on with an attempt that a former daemon has started, as if ``start`` had been called.

        ``is_newest`` tells that no attempt was started after it.
        """

    def acknowledge(job_id: int) -> None:
        """Forget a job's attempt, whose end is durable; its runner forgets it as well."""

    def end(job_id: int, reason: Reason, number: int) -> None:
        """Signal all processes of a running attempt, and kill them after its ``kill_after``."""

    def send(job_id: int, data: bytes, is_eof: bool, timeout: float) -> "Deferred[Delivery]":
        """Have the runner write into the stdin of an interactive attempt, and close it if ``is_eof``.

        Data is written whole, and in the order of the calls. The Deferred fires when the pipe has all of it,
        or after ``timeout`` seconds; it never fails. If it is cancelled, what is not written is withdrawn.
        """

    def set_suspended(job_id: int, is_suspended: bool) -> None:
        """Stop all processes of a running attempt and its timeouts, or let them go on."""

    def runner_obstacle(job_id: int) -> str | None:
        """Return why the runner of a job's attempt can only let it run or end it; None if it can do more."""

    def kill_leftovers(job_id: int) -> "Deferred[None] | None":
        """Kill the processes that ended attempts of a job left in their sessions; None if there are none.

        The Deferred fires when they are gone or no signal ends them. The job may be removed then.
        """

    def kill() -> "Deferred[None]":
        """Kill all running attempts and all that ended attempts left behind: the daemon is about to stop.

        The Deferred fires when they are gone or no signal ends them, and all ends are acknowledged.
        """
