"""The verbs of the protocol as methods: a request out, its reply read (docs/protocol.md §3).

A request that the daemon refuses raises Refused and leaves the client usable. A restart of the daemon is
waited for (``Link``); Unreachable means that it did not come back, or that it is not known whether what was
asked has been done. A client belongs to one thread at a time, and one whose call was broken off by
KeyboardInterrupt can only be closed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

from taskqd.client import encoder
from taskqd.client.decoder import Facts, Output, Result, Status
from taskqd.client.encoder import Changes, Command, Options, Recurring, Ref, option
from taskqd.client.session import Read, written
from taskqd.client.streams import Streams, countdown, submission

if TYPE_CHECKING:
    from typing_extensions import Unpack

PAGE = 1000
"""``list_all`` asks for so many jobs at a time."""


class Filters(TypedDict, total=False):
    """Which jobs to list: those that pass all that are given.

    ``status`` may name several: ``"PENDING,RUNNING"``. An array is listed as one job; its tasks are listed
    with ``tasks``, and those of one array alone with ``array``.
    """

    status: str | None
    queue: str | None
    owner: str | None
    label: str | None
    key: str | None
    array: int | None
    tasks: bool


class Client(Streams):
    """A connection to the daemon at ``unix:PATH``, ``tcp:HOST:PORT`` or ``tls:HOST:PORT``, made at once.

    Without an address it is the daemon that ``taskq`` finds (``find_address``).
    ``token`` authenticates on TCP and TLS; a UNIX socket knows its peer, and the token is not sent. ``ca``,
    ``cert`` and ``key`` are the PEM files of TLS, in place of those of the environment (``Link``). Raises
    ValueError for an address of another form, Unreachable where no daemon answers, Untrusted where TLS comes
    to nothing for a certificate, Refused where the token is wrong.
    """

    # jobs in

    def submit(self, command: Command | None = None, **options: "Unpack[Options]") -> int:
        """Submit a shell command, or a ``script=`` in its place; return the job's id once it is on disk.

        A list is a program and its arguments, which reach it as they are. The options are those of
        ``Options``. Where the connection is lost before the answer, nobody can tell
        whether the job was taken; with a ``key`` it is safe to ask again.
        """
        request = submission(command, options)

        def ask() -> int:
            self._send(request)
            return self._replies.id()

        return self._again(ask) if options.get("key") else ask()

    # one job

    def status(self, job: Ref) -> Status:
        """Tell where a job stands."""
        return self._look_at("STATUS", job, self._replies.status)

    def result(self, job: Ref) -> Result:
        """Return what a finished job printed and its exit code.

        Refused as NOT_FINISHED before its end, and as TOO_LARGE where a stream is over 1 MiB: see ``stream``.
        """
        return self._look_at("RESULT", job, self._replies.result)

    def show(self, job: Ref) -> Facts:
        """Return all that is known of a job."""
        return self._look_at("SHOW", job, self._replies.job)

    def why(self, job: Ref) -> str:
        """Tell a person why a job is where it is: what a pending one waits for, and for how long perhaps."""
        return self._look_at("WHY", job, self._replies.text)

    def wait(self, job: Ref, timeout: float | str | None = None) -> Status:
        """Wait until a job has ended; Refused as TIMED_OUT after ``timeout``, in seconds or as ``"10m"``."""
        left = countdown(timeout)
        return self._again(
            lambda: self._ask_about("WAIT", job, self._replies.status, option("timeout", left()))
        )

    def cancel(self, job: Ref, signal: str | None = None, *, cascade: bool = False) -> Status:
        """End a job by SIGTERM or another signal; return where it stands, which may still be RUNNING.

        With ``cascade`` the pending jobs that come after it are cancelled too, and those after them.
        """
        options = option("signal", signal) + b" --cascade" * cascade
        return self._ask_about("CANCEL", job, self._replies.status, options)

    def hold(self, job: Ref) -> Status:
        """Have a pending job not start until it is released."""
        return self._ask_about("HOLD", job, self._replies.status)

    def release(self, job: Ref) -> Status:
        """Let a pending job start that was held or delayed."""
        return self._ask_about("RELEASE", job, self._replies.status)

    def set(self, job: Ref, **changes: "Unpack[Changes]") -> Facts:
        """Change what is asked of a pending job, and return all that is then known of it.

        The options are those of ``Changes``.
        """
        return self._ask_about("SET", job, self._replies.job, written(lambda: encoder.changes(changes)))

    def retry(self, job: Ref, *, cascade: bool = False) -> int:
        """Make a finished job PENDING again, and return its id, which stays the same.

        With ``cascade`` the jobs that FAILED because of it by ``dependency`` too, and those because of these.
        """
        return self._ask_about("RETRY", job, self._replies.id, b" --cascade" * cascade)

    def remove(self, job: Ref) -> None:
        """Forget a finished job and its output; its id is Refused as GONE from then on."""
        self._ask_about("REMOVE", job, self._replies.ok)

    def history(self, job: Ref) -> Sequence[Facts]:
        """Return all that happened to a job, oldest first: events of the journal, each with its ``seq``."""
        return self._look_at("HISTORY", job, self._replies.events)

    # what a job prints

    def output(
        self,
        job: Ref,
        stream: str = "stdout",
        *,
        offset: int | str | None = None,
        limit: int | str | None = None,
        tail: int | str | None = None,
        attempt: int | None = None,
    ) -> Output:
        """Return a piece of what a job has printed so far, 1 MiB unless told; no bytes at the end.

        ``tail`` counts from the end. One piece has 16 MiB at most, whatever ``limit`` says. ``attempt`` is
        the number of an earlier one.
        """
        options = {"offset": offset, "limit": limit, "tail": tail, "attempt": attempt}
        asked = b"".join(option(name, value) for name, value in options.items())
        return self._look_at("OUTPUT", job, self._replies.output, b" %b" % stream.encode("ascii") + asked)

    def stream(
        self, job: Ref, stream: str = "stdout", offset: int = 0, *, attempt: int | None = None
    ) -> Iterator[Output]:
        """Yield all that a job has printed so far on one stream, from ``offset`` on, in pieces."""
        while (piece := self.output(job, stream, offset=offset, attempt=attempt)).data:
            yield piece
            offset = piece.offset + len(piece.data)

    # many jobs

    def list(
        self,
        *,
        start: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        **filters: "Unpack[Filters]",
    ) -> Sequence[Facts]:
        """Return the jobs that pass all filters, by id, 100 unless told.

        ``start`` is the id to begin with: for the next page the one after the last, or before it with
        ``reverse``.
        """
        given = dict(filters)
        has_tasks = bool(given.pop("tasks", False))
        asked = b"".join(option(name, str(value)) for name, value in given.items() if value is not None)
        asked += option("from", start) + option("limit", limit) + b" --tasks" * has_tasks
        return self._look(b"LIST" + asked + b" --reverse" * reverse, self._replies.jobs)

    def list_all(self, start: int | None = None, **filters: "Unpack[Filters]") -> Iterator[Facts]:
        """Yield all jobs that pass the filters, by id upwards from ``start`` on, however many there are."""
        while page := self.list(start=start, limit=PAGE, **filters):
            yield from page
            if len(page) < PAGE:
                return
            start = page[-1]["id"] + 1

    # queues and schedules

    def queues(self) -> Sequence[Facts]:
        """Return the queues: their slots, and how many jobs of each are in which status."""
        return self._look(b"QUEUES", self._replies.queues)

    def set_queue(self, queue: str, slots: int | str | None) -> Facts:
        """Change how many slots a queue has, and return what is then known of it.

        None is no limit of its own, ``"default"`` what the daemon's settings say.
        """
        asked = option("slots", "none" if slots is None else slots)
        return self._ask(b"SET-QUEUE " + _word(queue) + asked, self._replies.queue)

    def pause(self, queue: str | None = None, *, schedule: int | None = None) -> None:
        """Have nothing new start in a queue, or of a schedule, or at all; what runs goes on."""
        self._ask(b"PAUSE" + _subject(queue, schedule), self._replies.ok)

    def resume(self, queue: str | None = None, *, schedule: int | None = None) -> None:
        """End the pause of a queue, or of a schedule, or the one of all."""
        self._ask(b"RESUME" + _subject(queue, schedule), self._replies.ok)

    def schedule(
        self,
        command: Command,
        *,
        every: float | str | None = None,
        cron: str | None = None,
        overlap: bool = False,
        **options: "Unpack[Recurring]",
    ) -> int:
        """Have a command submitted again and again; return the number of the schedule.

        ``every`` is a duration, ``cron`` five fields as in crontab(5), in the daemon's local time. While a
        job of it has not ended, no other is submitted, unless ``overlap``.
        """
        when = {"every": every, "cron": cron, "overlap": overlap}
        return self._ask(written(lambda: encoder.schedule(command, options, **when)), self._replies.number)

    def schedules(self) -> Sequence[Facts]:
        """Return the schedules."""
        return self._look(b"SCHEDULES", self._replies.schedules)

    def unschedule(self, schedule: int) -> None:
        """End a schedule; jobs that it has submitted go on."""
        self._ask(b"UNSCHEDULE %d" % schedule, self._replies.ok)

    # the daemon

    def stats(self) -> Facts:
        """Return the daemon's counters, gauges, uptime and limits."""
        return self._look(b"STATS", self._replies.stats)

    def drain(self) -> None:
        """Have the daemon take no new jobs and start none, until it is started again; what runs goes on."""
        self._ask(b"DRAIN", self._replies.ok)

    def hello(self) -> Facts:
        """Return the daemon's version, verbs and limits, who you are to it, and the ``protocol``'s number."""
        return self._look(b"HELLO", self._replies.hello)

    def ping(self) -> None:
        """Return if the daemon answers."""
        self._look(b"PING", self._replies.ok)

    def _ask_about(self, verb: str, job: Ref, read: Callable[[], Read], options: bytes = b"") -> Read:
        named = written(lambda: encoder.ref(job))
        return self._ask(verb.encode("ascii") + b" " + named + options, read)

    def _look_at(self, verb: str, job: Ref, read: Callable[[], Read], options: bytes = b"") -> Read:
        return self._again(lambda: self._ask_about(verb, job, read, options))


def _word(name: str) -> bytes:
    return written(lambda: encoder.name(name))


def _subject(queue: str | None, schedule: int | None) -> bytes:
    return (b"" if queue is None else b" " + _word(queue)) + option("schedule", schedule)
