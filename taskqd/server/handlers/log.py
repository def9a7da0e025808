"""The handler of LOG: both streams of a job in the order in which its runner has read them."""

from collections.abc import Callable, Mapping
from functools import partial

from twisted.internet import defer
from twisted.internet.defer import Deferred

from taskqd.auth.authorization import Authorizer
from taskqd.engine.engine import Engine
from taskqd.model.job import Job, Status
from taskqd.protocol import replies
from taskqd.protocol.output_requests import LogRequest
from taskqd.server.handlers.base import HandlerGroup, LineSender, Reply, check_has_output, handles
from taskqd.server.handlers.job_view import STREAMS, JobView
from taskqd.server.handlers.merged_log import MergedLog, Piece
from taskqd.server.handlers.output import FLUSH_TIMEOUT
from taskqd.server.handlers.output_stream import OutputFollower
from taskqd.server.handlers.output_tail import OutputTails, Position
from taskqd.server.interfaces import IClient
from taskqd.storage.interfaces import IClock

OpenLog = Callable[[int, Mapping[str, int], int], MergedLog]
"""Opens the log of an attempt by its number, behind the offsets of the streams, or a number of its bytes."""


class LogHandlers(HandlerGroup):
    """Sends the logs of jobs."""

    def __init__(self, engine: Engine, job_view: JobView, clock: IClock, authorizer: Authorizer) -> None:
        super().__init__(engine, job_view, clock, authorizer)
        self._tails = OutputTails(engine.queue_state, job_view)

    @handles("LOG")
    def _log(self, client: IClient, request: LogRequest) -> Reply:
        job = check_has_output(self._queue_state.get(request.job))
        attempt = self._job_view.attempt(job, request.attempt)
        if request.is_followed:
            following = client.while_connected(Deferred.fromCoroutine(self._follow(client, job.id, request)))
            return following.addCallback(self._format_status)
        if attempt is None:
            return replies.log_end(0, 0, 0, 0)
        return Deferred.fromCoroutine(self._send_log(client, job, attempt.number, request))

    async def _send_log(self, client: IClient, job: Job, number: int, request: LogRequest) -> bytes:
        await self._flush(job)
        log = self._open(client, job.id, request.stream, number, _offsets(request), request.since)
        if request.tail_lines is not None:
            await log.seek_tail(request.tail_lines)
        sender, left = LineSender(client), request.limit
        while left and (piece := await log.next(left)) is not None:
            left -= len(piece.data)
            sender.add(_encode(piece))
            if sender.must_send:
                await sender.send()
        more = 0 if left else max(0, log.size() - log.position)
        now = self._queue_state.get(job.id)
        dropped = sum(self._job_view.dropped(now, stream, number) for stream in log.offsets)
        stdout, stderr = (log.offsets.get(stream, 0) for stream in STREAMS)
        return sender.end(lambda _: replies.log_end(more, dropped, stdout, stderr))

    async def _flush(self, job: Job) -> None:
        """Wait until all that a running job has printed can be read, or its runner does not answer."""
        if job.status is Status.RUNNING:
            flushed = self._job_view.flush(job).addTimeout(FLUSH_TIMEOUT, self._clock)
            await flushed.addErrback(lambda failure: failure.trap(defer.TimeoutError))

    def _open(
        self,
        client: IClient,
        job_id: int,
        stream: str | None,
        number: int,
        offsets: Mapping[str, int],
        skip: int,
    ) -> MergedLog:
        async def pause() -> None:
            if not client.can_send:
                await client.writable()

        streams = tuple(STREAMS) if stream is None else (stream,)
        return MergedLog(self._queue_state, self._job_view, job_id, number, streams, offsets, pause, skip)

    async def _follow(self, client: IClient, job_id: int, request: LogRequest) -> Job:
        job = self._queue_state.get(job_id)
        await self._flush(job)
        open_log = partial(self._open, client, job_id, request.stream)
        log = open_log(job.attempts, _offsets(request), request.since)
        if request.tail_lines is not None and job.attempts:
            await log.seek_tail(request.tail_lines)
        follower = LogFollower(self._engine, self._job_view, self._tails, client, job, log, open_log)
        return await follower.follow()


class LogFollower(OutputFollower):
    """Sends the log of a job as it appears, through all attempts to the job's end.

    It begins with `log`, which is that of the latest attempt of `job`; `open_log` opens those of later ones.
    """

    def __init__(
        self,
        engine: Engine,
        job_view: JobView,
        tails: OutputTails,
        client: IClient,
        job: Job,
        log: MergedLog,
        open_log: OpenLog,
    ) -> None:
        super().__init__(engine, job_view, tails, client, job.id, {})
        self._log = log
        self._open_log = open_log
        self._attempt = log.number

    @property
    def awaits(self) -> Position | None:
        """None: the tail of the job does not know the order, so it only wakes this follower."""
        return None

    async def _send_available(self) -> bool:
        """Send the log as far as it goes; return whether there was any."""
        job = self._queue_state.get(self._job_id)
        if not any(attempt.number == self._attempt for attempt in self._job_view.attempts(job)):
            return False
        sender, has_sent = LineSender(self._client), False
        while (piece := await self._log.next()) is not None:
            has_sent = True
            sender.add(_encode(piece))
            if sender.must_send:
                await sender.send()
        if has_sent:
            await sender.send()
        self._log.forget()
        return has_sent

    def _go_to_next_attempt(self, job: Job) -> None:
        is_first = not self._attempt  # the offsets of the request are for that
        offsets = self._log.offsets if is_first else dict.fromkeys(self._log.offsets, 0)
        super()._go_to_next_attempt(job)
        self._log = self._open_log(self._attempt, offsets, 0)


def _offsets(request: LogRequest) -> dict[str, int]:
    return {"stdout": request.stdout, "stderr": request.stderr}


def _encode(piece: Piece) -> bytes:
    return replies.log_data(piece.stream, piece.offset, piece.data, piece.at, piece.is_ordered)
