"""The requests with more than one answer, each an iterator over what comes (docs/protocol.md §3)."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from taskqd.client import encoder
from taskqd.client.connection import Lost, Pipeline
from taskqd.client.decoder import Ended, Facts, Output, Refused, Status
from taskqd.client.encoder import Command, Options, Ref, option
from taskqd.client.session import Link, written
from taskqd.errors import BadRequest
from taskqd.protocol.values import parse_duration

if TYPE_CHECKING:
    from typing_extensions import Unpack

BATCH = 64 * 1024
"""``submit_many`` sends so many bytes at once."""
WINDOW = 4096
"""``submit_many`` lets so many submissions wait for their answers, and one batch more."""
PAUSE = 0.1
"""``follow`` and ``watch`` come up for air so many seconds after the last news."""


class Streams(Link):
    """The part of the client whose methods give an iterator.

    Who stops iterating in the middle of ``follow``, ``watch`` or ``wait_many`` closes the connection by it,
    for there is no other word for it in the protocol; the client makes another when it is next asked for
    something. Until then nothing else can be asked: ``another`` gives a second client.
    """

    next_event: int | None = None
    """The number of the event with which a ``watch`` that was broken off goes on without a gap."""

    def submit_many(
        self, commands: Iterable[Command | None], **options: "Unpack[Options]"
    ) -> Iterator[int | Refused]:
        """Submit commands without waiting for each; yield their ids in order, and the Refused of one refused.

        The options hold for all. A None among the commands says that the next may take a while: what is there
        is sent, and its ids are yielded, before it is asked for. Who stops iterating early has submitted some
        more than the ids seen.
        """
        self._send(b"")
        pipeline = Pipeline(self._connection)
        try:
            for command in commands:
                if command is None:
                    yield from self._answers(pipeline, 0)
                    continue
                try:
                    pipeline.put(submission(command, options))
                except Refused as refusal:
                    yield from self._answers(pipeline, 0)
                    yield refusal
                if pipeline.size >= BATCH:
                    yield from self._answers(pipeline, WINDOW)
            yield from self._answers(pipeline, 0)
        except GeneratorExit:
            pipeline.discard_answers()
            raise

    def _answers(self, pipeline: Pipeline, most: int) -> Iterator[int | Refused]:
        """Send what is held; read answers until at most so many are missing, and those that are there."""
        pipeline.send()
        while pipeline.is_due(most):
            pipeline.unanswered -= 1
            try:
                yield self._replies.id()
            except Refused as refusal:
                yield refusal

    def wait_many(
        self, jobs: Iterable[Ref], *, any_: bool = False, timeout: float | str | None = None
    ) -> Iterator[Ended]:
        """Yield jobs as they end, up to 1,000; with ``any_`` the first alone.

        Refused as TIMED_OUT after ``timeout`` if there are some that have not ended.
        """
        waiting = {str(job): job for job in jobs}
        left = countdown(timeout)
        is_one = is_asked = False

        def next_end() -> Ended | None:
            """Read the next end; on a new connection, ask first for those jobs that are left."""
            nonlocal is_one, is_asked
            if not is_asked:
                is_one = len(waiting) == 1 and not any_
                refs = written(lambda: b" ".join(map(encoder.ref, waiting.values())))
                self._send(b"WAIT " + refs + b" --any" * any_ + option("timeout", left()) + b"\r\n")
            is_asked = False  # if the connection is lost now
            reply = self._replies.status() if is_one else self._replies.ended()
            is_asked = True
            return Ended(next(iter(waiting.values())), *reply) if isinstance(reply, Status) else reply

        with self._held():
            while end := self._again(next_end):
                waiting.pop(str(end.job), None)
                yield end
                if is_one:
                    return
                if any_ or not waiting:
                    with suppress(Lost):  # all that was asked for is known without the END
                        self._replies.ended()
                    return

    def follow(self, job: Ref, stdout: int = 0, stderr: int = 0) -> Iterator[Output]:
        """Yield what a job prints on both streams as it comes, to the end of the job, from those offsets on.

        A job that has not started is waited for; one that is run again begins again at offset 0. Where
        nothing comes, an empty piece does every tenth of a second, so that other things can be done in
        between. The daemon sends no faster than the pieces are taken.
        """
        starts = option("stdout", stdout or None) + option("stderr", stderr or None)
        self._send(written(lambda: b"FOLLOW " + encoder.ref(job)) + starts + b"\r\n")
        with self._held():
            while True:
                if not self._connection.has_line(PAUSE):
                    yield Output("stdout", 0, b"")
                    continue
                reply = self._replies.followed()
                if isinstance(reply, Status):
                    return
                yield reply

    def watch(
        self, since: int | None = None, job: Ref | None = None, queue: str | None = None
    ) -> Iterator[Facts | None]:
        """Yield what happens to jobs, queues and schedules as it does, each event with its number ``seq``.

        ``since`` is the number of the first one: without it, what happens from now on. None comes first, when
        the daemon has begun, and where nothing else comes, every tenth of a second. Who does not read fast
        enough, or asks for what is not there any more, is Refused as LAGGED, and ``next`` says from which
        number on there are events still. ``next_event`` is the number to go on with after any end of it.
        """
        chosen = written(lambda: b"" if job is None else b" --job=" + encoder.ref(job))
        asked = b"WATCH" + option("since", since) + chosen + option("queue", queue)
        self.next_event = self._ask(asked, self._replies.number)
        with self._held():
            yield None
            while True:
                if not self._connection.has_line(PAUSE):
                    yield None
                    continue
                event = self._replies.event()
                self.next_event = event["seq"] + 1
                yield event

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the connection while replies still come; who leaves before the last one closes it."""
        try:
            yield
        except (GeneratorExit, KeyboardInterrupt):
            self._leave()
            raise


def countdown(timeout: float | str | None) -> Callable[[], float | str | None]:
    """Return what tells how much is left of ``timeout``, for a wait that is asked for again.

    At first it is the timeout as it was given.
    """
    if timeout is None:
        return lambda: None
    end: float | None = None

    def left() -> float | str:
        nonlocal end
        if end is not None:
            return max(0.0, end - time.monotonic())
        with suppress(BadRequest):  # it is the daemon's to refuse
            end = time.monotonic() + (parse_duration(timeout) if isinstance(timeout, str) else timeout)
        return timeout

    return left


def submission(command: Command | None, options: Options) -> bytes:
    """Return a whole SUBMIT with its blocks."""

    def write() -> bytes:
        words = encoder.submit_options(options)
        return encoder.submit(command, words, options.get("script"), options.get("stdin"))

    return written(write)
