"""Client methods for requests with several replies; each returns an iterator (docs/protocol.md §3)."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from taskqd.client import encoder
from taskqd.client.address import Unreachable
from taskqd.client.connection import ConnectionLost, Pipeline
from taskqd.client.decoder import Ended, Facts, LogPiece, Output, Refused, Status
from taskqd.client.encoder import Command, Options, Ref, option
from taskqd.client.follow_position import FollowPosition, describe_restart
from taskqd.client.session import ClientSession, Reply, encode_request
from taskqd.errors import BadRequest
from taskqd.protocol.values import parse_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

Piece = TypeVar("Piece", Output, LogPiece)

MAX_BATCH_BYTES = 64 * 1024
"""``submit_many`` sends its buffered requests when they reach this size (bytes)."""
MAX_UNANSWERED = 4096
"""``submit_many`` sends another batch only while at most this many requests are unanswered."""
IDLE_INTERVAL = 0.1
"""``follow`` and ``watch`` yield an empty item after this much time without news (seconds)."""


class Streams(ClientSession):
    """The part of the client whose methods return iterators.

    The protocol has no request that ends ``follow``, ``watch`` or ``wait_many`` early, so leaving the loop
    closes the connection; the next request opens another. While such an iterator is in use, nothing else can
    be requested on this client: ``another`` returns a second one.
    """

    next_event: int | None = None
    """The sequence number with which an interrupted ``watch`` can continue without a gap."""

    def submit_many(
        self, commands: Iterable[Command | None], **options: "Unpack[Options]"
    ) -> Iterator[int | Refused]:
        """Submit commands without waiting for each reply; yield an id or a Refused per command, in order.

        The options apply to all commands; an environment is sent only until a command is accepted with it,
        and the others name it by its hash. A None among the commands announces that the next one may take a
        while: all commands before it are sent, and their ids are yielded, before the next is requested. If
        the caller stops iterating, more commands may have been submitted than ids were yielded.
        """
        self._send(b"")
        environment = self._encode_environment(options)
        known: bytes | None = None
        pipeline = Pipeline(self._connection)
        try:
            for command in commands:
                if command is None:
                    yield from self._read_replies(pipeline, 0, self._reader.read_id)
                    continue
                try:
                    if environment is not None and known is None:
                        pipeline.add(encode_submission(command, options, environment.block))
                        for reply in self._read_replies(pipeline, 0, self._reader.read_id):
                            known = None if isinstance(reply, Refused) else environment.known
                            yield reply
                        continue
                    pipeline.add(encode_submission(command, options, known=known))
                except Refused as refusal:
                    yield from self._read_replies(pipeline, 0, self._reader.read_id)
                    yield refusal
                if pipeline.buffered_bytes >= MAX_BATCH_BYTES:
                    yield from self._read_replies(pipeline, MAX_UNANSWERED, self._reader.read_id)
            yield from self._read_replies(pipeline, 0, self._reader.read_id)
        except GeneratorExit:
            pipeline.discard_replies()
            raise

    def _read_replies(
        self, pipeline: Pipeline, max_unanswered: int, read: Callable[[], Reply]
    ) -> Iterator[Reply | Refused]:
        """Flush the pipeline, then yield results while replies have arrived or too many are outstanding."""
        pipeline.flush()
        while pipeline.should_read_reply(max_unanswered):
            pipeline.unanswered -= 1
            try:
                yield read()
            except Refused as refusal:
                yield refusal

    def wait_many(
        self, jobs: Iterable[Ref], *, any_: bool = False, timeout: float | str | None = None
    ) -> Iterator[Ended]:
        """Yield each of up to 1,000 jobs when it ends; with ``any_`` only the first.

        Refused with TIMED_OUT if some have not ended after ``timeout``.
        """
        waiting = {str(job): job for job in jobs}
        left = remaining_time(timeout)
        is_single = has_sent = False

        def read_next_end() -> Ended | None:
            """Read the next end; on a new connection, first send the request for the remaining jobs."""
            nonlocal is_single, has_sent
            if not has_sent:
                is_single = len(waiting) == 1 and not any_
                refs = encode_request(lambda: b" ".join(map(encoder.ref, waiting.values())))
                self._send(b"WAIT " + refs + b" --any" * any_ + option("timeout", left()) + b"\r\n")
            has_sent = False  # in case the connection is lost while reading
            reply = self._reader.read_status() if is_single else self._reader.read_ended()
            has_sent = True
            return Ended(next(iter(waiting.values())), *reply) if isinstance(reply, Status) else reply

        with self._abandon_if_left():
            while end := self._repeat_after_restart(read_next_end):
                waiting.pop(str(end.job), None)
                yield end
                if is_single:
                    return
                if any_ or not waiting:
                    with suppress(ConnectionLost):  # all results are known; only the END line is missing
                        self._reader.read_ended()
                    return

    def follow(self, job: Ref, stdout: int = 0, stderr: int = 0) -> Iterator[Output]:
        """Yield the output of a job on both streams, from the given offsets, until the job ends.

        Waits for a job that has not started. When the job is retried, the offsets start at 0 again. When
        there is no output, an empty piece is yielded every 0.1 s, so that the caller can do other things. The
        daemon sends no faster than the caller iterates.

        After a restart of the daemon the output continues without a gap or a repetition. Only if the job is
        in another attempt by then, its output starts at offset 0; ``on_news`` gets a message about that.
        """
        return self._follow(
            job, FollowPosition(stdout, stderr), b"FOLLOW", self._reader.read_output_or_status
        )

    def follow_log(
        self, job: Ref, stdout: int = 0, stderr: int = 0, *, stream: str | None = None
    ) -> Iterator[LogPiece | Output]:
        """Yield the log of a job, both streams in order or only one ``stream``, until the job ends.

        All else is as for ``follow``; the empty pieces are of the type Output. Since release 0.10.
        """
        chosen = b"" if stream is None else option("stream", stream)
        position = FollowPosition(stdout, stderr)
        read = self._reader.read_log_piece_or_status
        return self._follow(job, position, b"LOG", read, b" --follow" + chosen)

    def _follow(
        self,
        job: Ref,
        position: FollowPosition,
        verb: bytes,
        read: Callable[[], Piece | Status],
        options: bytes = b"",
    ) -> Iterator[Piece | Output]:
        is_following = False

        def read_next() -> Piece | Output | None:
            """Read the next piece, None at the end; on a new connection, first send the request."""
            nonlocal is_following
            if not is_following:
                self._send_follow(job, position, verb, options)
            is_following = False  # in case the connection is lost while reading
            piece: Piece | Output | Status = Output("stdout", 0, b"")
            if self._connection.has_line(IDLE_INTERVAL):
                piece = read()
            if isinstance(piece, Status):
                return None
            if piece.data and self._reconnect_timeout:
                position.advance(piece, lambda: self._count_attempts(job))
            is_following = True
            return piece

        with self._abandon_if_left():
            while (piece := self._repeat_after_restart(read_next)) is not None:
                yield piece

    def _send_follow(self, job: Ref, position: FollowPosition, verb: bytes, options: bytes) -> None:
        """Send the request, with the offsets of the attempt that is the latest now."""
        ref = encode_request(lambda: encoder.ref(job))
        self._send(b"")
        # Both requests go to the same daemon: a reconnect between them could change the attempt.
        if self._reconnect_timeout and position.resume(self._show_attempts(job)):
            self.on_news(describe_restart(job))
        offsets = b"".join(option(name, offset or None) for name, offset in position.offsets.items())
        self._connection.send(verb + b" " + ref + options + offsets + b"\r\n")

    def _count_attempts(self, job: Ref) -> int:
        """Return the number of attempts of a job, over a second connection; raises ConnectionLost."""
        try:
            with self.another() as second:
                return second._show_attempts(job)  # noqa: SLF001 - another of this class
        except Unreachable as error:  # the daemon is stopping
            raise ConnectionLost(str(error)) from None

    def _show_attempts(self, job: Ref) -> int:
        ref = encode_request(lambda: encoder.ref(job))
        self._connection.send(b"SHOW " + ref + b"\r\n")
        attempts: int = self._reader.read_job()["attempts"]
        return attempts

    def watch(
        self, since: int | None = None, job: Ref | None = None, queue: str | None = None
    ) -> Iterator[Facts | None]:
        """Yield events of jobs, queues and schedules as they occur, each with its number as ``seq``.

        ``since`` is the number of the first event; without it, only new events are yielded. None is yielded
        when the daemon has accepted the request, and every 0.1 s without an event. A client that reads too
        slowly, or asks for events that are no longer stored, is Refused with LAGGED, whose ``next`` is the
        number of the first event that is available. ``next_event`` is the number to continue with.
        """
        chosen = encode_request(lambda: b"" if job is None else b" --job=" + encoder.ref(job))
        line = b"WATCH" + option("since", since) + chosen + option("queue", queue)
        self.next_event = self._request(line, self._reader.read_number)
        with self._abandon_if_left():
            yield None
            while True:
                if not self._connection.has_line(IDLE_INTERVAL):
                    yield None
                    continue
                event = self._reader.read_event()
                self.next_event = event["seq"] + 1
                yield event

    @contextmanager
    def _abandon_if_left(self) -> Iterator[None]:
        """Abandon the connection if the caller leaves the iteration before the last reply."""
        try:
            yield
        except (GeneratorExit, KeyboardInterrupt):
            self._abandon()
            raise


def remaining_time(timeout: float | str | None) -> Callable[[], float | str | None]:
    """Return a function that returns the rest of ``timeout``, for a request that may be repeated.

    The first call returns the timeout as given and starts the clock.
    """
    if timeout is None:
        return lambda: None
    end: float | None = None

    def left() -> float | str:
        nonlocal end
        if end is not None:
            return max(0.0, end - time.monotonic())
        with suppress(BadRequest):  # the daemon reports an invalid timeout
            end = time.monotonic() + (parse_duration(timeout) if isinstance(timeout, str) else timeout)
        return timeout

    return left


def encode_submission(
    command: Command | None,
    options: Options,
    environment: bytes | None = None,
    known: bytes | None = None,
) -> bytes:
    """Return a whole SUBMIT request with its blocks; ``known`` names an environment that was sent before."""

    def encode() -> bytes:
        words = encoder.submit_options(options) + option("environment", known)
        return encoder.submit(command, words, options.get("script"), options.get("stdin"), environment)

    return encode_request(encode)
