"""The verbs of the protocol as methods (docs/protocol.md §3).

A request that the daemon refuses raises Refused; the client stays usable. When the daemon is restarted, the
client reconnects (``ClientSession``). Unreachable means that the daemon did not come back, or that it is
unknown whether the request was carried out. A client must not be shared between threads. After a
KeyboardInterrupt within a call it can only be closed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from taskqd.client import encoder
from taskqd.client.acts import ActFilters, Acts
from taskqd.client.decoder import Facts, LogPage, LogPiece, Output, Result, Shutdown, Status
from taskqd.client.encoder import Changes, Command, Options, Recurring, Ref, option
from taskqd.client.session import Reply, encode_request
from taskqd.client.streams import encode_submission, remaining_time

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_LIMIT = 100
"""Jobs in a list if the request has no limit."""
LOG_PAGE_SIZE = 4 * 1024**2
"""Bytes per request of ``log``: the daemon finds the place of each in the index."""
PAGE_SIZE = 1000
"""Number of jobs per request of ``list_all``."""


class Filters(ActFilters, total=False):
    """Filters for a list of jobs; a job must match all that are given.

    ``status`` may name several statuses: ``"PENDING,RUNNING"``. ``match`` is text that the command or the
    label contains, in any case. An array is listed as one job; ``tasks`` lists its tasks too, and ``array``
    only the tasks of one array.
    """

    key: str | None
    array: int | None
    tasks: bool


class Client(Acts):
    """A connection to the daemon at ``unix:PATH``, ``tcp:HOST:PORT`` or ``tls:HOST:PORT``.

    It connects at once. Without an address, it uses the daemon that ``taskq`` finds (``find_address``).
    ``token`` authenticates on TCP and TLS; it is not sent over a UNIX socket, whose peer is known to the
    daemon. ``ca``, ``cert`` and ``key`` are the PEM files for TLS (``ClientSession``). Raises ValueError for
    an invalid address, Unreachable if no daemon answers, Untrusted if TLS fails because of a certificate,
    and Refused if the token is wrong.
    """

    # Submitting.

    def submit(self, command: Command | None = None, **options: "Unpack[Options]") -> int:
        """Submit a shell command, or a ``script=``; return the job's id when the job is on disk.

        A list is run as a program with arguments, without a shell's interpretation; with a script, the
        command is its arguments. The options are those of
        ``Options``. If the connection is lost before the reply, it is unknown whether the job was accepted;
        with a ``key`` the request can be repeated safely.
        """
        environment = self._encode_environment(options)
        line = encode_submission(command, options, None if environment is None else environment.block)

        def request() -> int:
            self._send(line)
            return self._reader.read_id()

        return self._repeat_after_restart(request) if options.get("key") else request()

    # One job.

    def status(self, job: Ref) -> Status:
        """Return the status of a job and its progress."""
        return self._query_job("STATUS", job, self._reader.read_status)

    def result(self, job: Ref) -> Result:
        """Return the output and exit code of a finished job.

        Refused with NOT_FINISHED before its end, and with TOO_LARGE if a stream exceeds 1 MiB; see
        ``stream``.
        """
        return self._query_job("RESULT", job, self._reader.read_result)

    def show(self, job: Ref) -> Facts:
        """Return all fields of a job."""
        return self._query_job("SHOW", job, self._reader.read_job)

    def why(self, job: Ref) -> str:
        """Explain in one sentence, for people, why a job has its status and what a pending job waits for."""
        return self._query_job("WHY", job, self._reader.read_text)

    def wait(self, job: Ref, timeout: float | str | None = None) -> Status:
        """Wait until a job ends; Refused with TIMED_OUT after ``timeout`` (seconds, or text as ``"10m"``)."""
        left = remaining_time(timeout)
        return self._repeat_after_restart(
            lambda: self._request_job("WAIT", job, self._reader.read_status, option("timeout", left()))
        )

    def cancel(self, job: Ref, signal: str | None = None, *, cascade: bool = False) -> Status:
        """Cancel a job with SIGTERM or another signal; return its status, which may still be RUNNING.

        With ``cascade``, pending jobs that depend on it are cancelled too, directly or indirectly.
        """
        options = option("signal", signal) + b" --cascade" * cascade
        return self._request_job("CANCEL", job, self._reader.read_status, options)

    def hold(self, job: Ref) -> Status:
        """Prevent a pending job from starting until it is released."""
        return self._request_job("HOLD", job, self._reader.read_status)

    def release(self, job: Ref) -> Status:
        """Allow a held or delayed job to start."""
        return self._request_job("RELEASE", job, self._reader.read_status)

    def suspend(self, job: Ref) -> Status:
        """Stop the processes of a running job and its timeouts; an array starts no task meanwhile.

        Since release 0.10.
        """
        return self._request_job("SUSPEND", job, self._reader.read_status)

    def continue_(self, job: Ref) -> Status:
        """Let a suspended job go on. Since release 0.10."""
        return self._request_job("CONTINUE", job, self._reader.read_status)

    def set(self, job: Ref, **changes: "Unpack[Changes]") -> Facts:
        """Change options, command or script of a pending job (``Changes``); return all its fields then."""
        return self._request_job(
            "SET", job, self._reader.read_job, encode_request(lambda: encoder.changes(changes))
        )

    def retry(self, job: Ref, *, cascade: bool = False) -> int:
        """Make a finished job PENDING again; return its id, which does not change.

        With ``cascade``, jobs that FAILED with the reason ``dependency`` because of it are retried too.
        """
        return self._request_job("RETRY", job, self._reader.read_id, b" --cascade" * cascade)

    def send(
        self, job: Ref, data: bytes = b"", *, eof: bool = False, timeout: float | str | None = None
    ) -> int:
        """Write data, up to 64 KiB, to the stdin of a running job that was submitted as ``interactive``.

        Return the number of bytes when the job's pipe has them; ``eof`` closes it. Refused with TIMED_OUT if
        the job does not read within ``timeout`` (default: 10 s): the text begins with the number of bytes
        that were written. Refused with WRONG_STATE if it gets no input any more. If the connection is lost
        before the reply, it is unknown what was written. Since release 0.10.
        """
        return self._request(
            encode_request(lambda: encoder.send(job, data, eof, timeout)), self._reader.read_number
        )

    def remove(self, job: Ref) -> None:
        """Delete a finished job and its output; requests for its id are then Refused with GONE."""
        self._request_job("REMOVE", job, self._reader.read_ok)

    def history(self, job: Ref) -> Sequence[Facts]:
        """Return the events of a job from the journal, oldest first, each with its number as ``seq``."""
        return self._query_job("HISTORY", job, self._reader.read_events)

    # Output.

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
        """Return a part of a job's output so far; the data is empty at the end of the stream.

        The stream ``"script"`` is the script of a job of one's own, since release 0.10.

        The default ``limit`` is 1 MiB, the maximum 16 MiB. ``tail`` counts from the end. ``attempt`` selects
        an earlier attempt by its number.
        """
        given = {"offset": offset, "limit": limit, "tail": tail, "attempt": attempt}
        options = b"".join(option(name, value) for name, value in given.items())
        return self._query_job(
            "OUTPUT", job, self._reader.read_output, b" %b" % stream.encode("ascii") + options
        )

    def stream(
        self, job: Ref, stream: str = "stdout", offset: int = 0, *, attempt: int | None = None
    ) -> Iterator[Output]:
        """Yield a job's output so far on one stream, from ``offset``, in pieces."""
        while (piece := self.output(job, stream, offset=offset, attempt=attempt)).data:
            yield piece
            offset = piece.offset + len(piece.data)

    def log_page(
        self,
        job: Ref,
        *,
        attempt: int | None = None,
        stream: str | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        tail_lines: int | None = None,
        limit: int | str | None = None,
    ) -> LogPage:
        """Return a part of a job's log so far: both streams in the order in which they were read.

        It begins behind the offsets of ``stdout`` and ``stderr``, or with the last ``tail_lines``. The
        default ``limit`` is 1 MiB, the maximum 16 MiB. ``stream`` selects one stream, ``attempt`` an earlier
        attempt. Since release 0.10.
        """
        given = {"attempt": attempt, "stream": stream, "stdout": stdout, "stderr": stderr}
        given |= {"tail-lines": tail_lines, "limit": limit}
        options = b"".join(option(name, value) for name, value in given.items())
        return self._query_job("LOG", job, self._reader.read_log_page, options)

    def log(
        self,
        job: Ref,
        *,
        attempt: int | None = None,
        stream: str | None = None,
        tail_lines: int | None = None,
    ) -> Iterator[LogPiece]:
        """Yield a job's log so far in pieces, or only its last lines; see ``log_page``."""
        chosen: dict[str, Any] = {"attempt": attempt, "stream": stream, "limit": LOG_PAGE_SIZE}
        page = self.log_page(job, tail_lines=tail_lines, **chosen)
        yield from page.pieces
        while page.left:
            page = self.log_page(job, stdout=page.stdout, stderr=page.stderr, **chosen)
            yield from page.pieces

    # Several jobs.

    def list(
        self,
        *,
        start: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        order: str | None = None,
        **filters: "Unpack[Filters]",
    ) -> Sequence[Facts]:
        """Return the jobs that match all filters, ordered by id; 100 by default.

        ``start`` is the first id. For the next page it is the last id plus 1, or minus 1 with ``reverse``.
        The ``order`` ``"start"`` is that in which pending jobs would start, ``"ended"`` that of ends, the
        latest first; then there are no further pages, and ``limit`` is up to 1,000. Since release 0.9.
        """
        given = dict(filters)
        has_tasks = bool(given.pop("tasks", False))
        options = b"".join(option(name, str(value)) for name, value in given.items() if value is not None)
        flags = b" --tasks" * has_tasks + b" --reverse" * reverse
        found: list[Facts] = []
        while True:  # a request with ``match`` searches a limited number of jobs
            page = option("from", start) + option("limit", limit) + option("order", order)
            jobs, start = self._query(b"LIST" + options + page + flags, self._reader.read_jobs)
            found += jobs
            if start is None:
                return found
            limit = (DEFAULT_LIMIT if limit is None else limit) - len(jobs)

    def count(self, **filters: "Unpack[Filters]") -> int:
        """Return how many jobs match all filters. Since release 0.9."""
        given = dict(filters)
        flags = b" --tasks" * bool(given.pop("tasks", False)) + b" --count"
        options = b"".join(option(name, str(value)) for name, value in given.items() if value is not None)
        total, start = 0, None
        while True:  # a request with ``match`` searches a limited number of jobs
            line = b"LIST" + options + option("from", start) + flags
            count, start = self._query(line, self._reader.read_count)
            total += count
            if start is None:
                return total

    def list_all(
        self, start: int | None = None, *, reverse: bool = False, **filters: "Unpack[Filters]"
    ) -> Iterator[Facts]:
        """Yield all jobs that match the filters, ordered by id, beginning with ``start``."""
        while page := self.list(start=start, limit=PAGE_SIZE, reverse=reverse, **filters):
            yield from page
            start = page[-1]["id"] + (-1 if reverse else 1)
            if len(page) < PAGE_SIZE or not start:
                return

    # Queues and schedules.

    def queues(self) -> Sequence[Facts]:
        """Return the queues with their slots and the number of jobs per status."""
        return self._query(b"QUEUES", self._reader.read_queues)

    def set_queue(
        self,
        queue: str,
        slots: int | str | None = "unchanged",
        *,
        fair: bool | str = "unchanged",
        rate: str | None = "unchanged",
    ) -> Facts:
        """Change the slots of a queue, whether its users take turns, and its start rate; return the queue.

        None removes a limit, ``"default"`` restores the value of the daemon's settings. A rate is a text such
        as ``"10/m"``.
        """
        values = {"slots": slots, "fair": str(fair).lower(), "rate": rate}
        options = b"".join(
            option(name, "none" if value is None else value)
            for name, value in values.items()
            if value != "unchanged"
        )
        return self._request(b"SET-QUEUE " + _encode_name(queue) + options, self._reader.read_queue)

    def set_slots(self, slots: int | None) -> int:
        """Change the slots of the daemon, None for those of its settings; return their number."""
        text = b"default" if slots is None else b"%d" % slots
        return self._request(b"SET-SLOTS " + text, self._reader.read_number)

    def pause(self, queue: str | None = None, *, schedule: int | None = None) -> None:
        """Start no more jobs of a queue, of a schedule, or at all; running jobs continue."""
        self._request(b"PAUSE" + _pause_target(queue, schedule), self._reader.read_ok)

    def resume(self, queue: str | None = None, *, schedule: int | None = None) -> None:
        """End the pause of a queue, of a schedule, or the general one."""
        self._request(b"RESUME" + _pause_target(queue, schedule), self._reader.read_ok)

    def schedule(
        self,
        command: Command | None = None,
        *,
        every: float | str | None = None,
        cron: str | None = None,
        overlap: bool = False,
        **options: "Unpack[Recurring]",
    ) -> int:
        """Submit a command, or a ``script=``, periodically; return the number of the schedule.

        ``every`` is a duration, ``cron`` has five fields as in crontab(5), in the daemon's local time.
        Without ``overlap``, no job is submitted while the previous one has not ended.
        """
        when = {"every": every, "cron": cron, "overlap": overlap}
        return self._request(
            encode_request(lambda: encoder.schedule(command, options, **when)), self._reader.read_number
        )

    def set_schedule(
        self,
        schedule: int,
        command: Command | None = None,
        *,
        every: float | str | None = None,
        cron: str | None = None,
        overlap: bool | None = None,
        remove: Iterable[str] = (),
        **options: "Unpack[Recurring]",
    ) -> int:
        """Change a schedule and return its number; what is not given stays, as do its pause and last job.

        ``every`` replaces a ``cron`` and the reverse, a command a ``script`` and the reverse. Variables in
        ``env`` and ``secret`` are added. ``remove`` has the options that are removed, by name, such as
        ``["timeout"]``.
        """
        when = {"every": every, "cron": cron, "overlap": overlap}
        return self._request(
            encode_request(lambda: encoder.schedule_change(schedule, command, options, remove, **when)),
            self._reader.read_number,
        )

    def run_schedule(self, schedule: int) -> int:
        """Submit a job of a schedule now, and return its id."""
        return self._request(b"SCHEDULE --run-now=%d" % schedule, self._reader.read_id)

    def schedules(self, schedule: int | None = None) -> Sequence[Facts]:
        """Return the schedules, or only one, which then has its ``next_runs``."""
        request = b"SCHEDULES" if schedule is None else b"SCHEDULES %d" % schedule
        return self._query(request, self._reader.read_schedules)

    def unschedule(self, schedule: int) -> None:
        """Delete a schedule; jobs that it has submitted continue."""
        self._request(b"UNSCHEDULE %d" % schedule, self._reader.read_ok)

    # The daemon.

    def stats(self) -> Facts:
        """Return the daemon's counters, gauges, uptime and limits."""
        return self._query(b"STATS", self._reader.read_stats)

    def drain(self, *, off: bool = False) -> None:
        """Make the daemon refuse new jobs and start none, until it is restarted or ``drain(off=True)``.

        Running jobs continue.
        """
        self._request(b"DRAIN" + b" --off" * off, self._reader.read_ok)

    def shutdown(self, *, end: bool = False, wait: bool = False) -> Shutdown:
        """Stop the daemon; return how many jobs were running and what becomes of them.

        With ``end``, running jobs are ended after the daemon's grace period; otherwise the daemon's setting
        ``on-stop`` applies. With ``wait``, return when the daemon has stopped: over a UNIX socket when its
        process has ended, else when it has closed the connection. The ends of the jobs are on disk then.
        """
        self._send(b"")
        line = b"SHUTDOWN" + b" --end" * end + b" --wait" * wait + b"\r\n"
        with self._connection.open_peer_process() as process:
            self._connection.send(line)
            shutdown = self._reader.read_shutdown()
            if wait:
                self._connection.wait_until_closed()
                process.wait()
        return shutdown

    def hello(self) -> Facts:
        """Return the daemon's version, ``protocol``, verbs and limits, and the client's name and role."""
        return self._query(b"HELLO", self._reader.read_hello)

    def ping(self) -> None:
        """Return if the daemon answers."""
        self._query(b"PING", self._reader.read_ok)

    def _request_job(self, verb: str, job: Ref, read: Callable[[], Reply], options: bytes = b"") -> Reply:
        ref = encode_request(lambda: encoder.ref(job))
        return self._request(verb.encode("ascii") + b" " + ref + options, read)

    def _query_job(self, verb: str, job: Ref, read: Callable[[], Reply], options: bytes = b"") -> Reply:
        return self._repeat_after_restart(lambda: self._request_job(verb, job, read, options))


def _encode_name(name: str) -> bytes:
    return encode_request(lambda: encoder.name(name))


def _pause_target(queue: str | None, schedule: int | None) -> bytes:
    return (b"" if queue is None else b" " + _encode_name(queue)) + option("schedule", schedule)
