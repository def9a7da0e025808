"""What each verb does: a request's values in, its reply out. The table of verbs is in wire.py.

A handler returns the reply or a Deferred of it and raises from the tree of errors.py. It may assume that all
earlier requests of its connection have been answered, unless it is SUBMIT's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from taskqd import __version__, replies, submission, wire, words
from taskqd.access import Access, Principal
from taskqd.dispatcher import Dispatcher
from taskqd.errors import AuthRequired, TimedOut
from taskqd.interfaces import ICaller
from taskqd.job import Job, Spec
from taskqd.results import Results

OPEN = frozenset({"HELLO", "PING", "HELP", "AUTH", "QUIT"})
"""The verbs for everybody; the others are for those whom the server knows."""
PROTOCOL_VERSION = 1
LOOKED_AT_ONCE = 1000
"""LIST looks at so many jobs before it lets others have their turn."""

ESCAPED_AT_ONCE = 65_536
"""RESULT escapes so many bytes before it lets others have their turn."""

LIMITS = {
    "line": wire.LONGEST_LINE,
    "block": submission.LARGEST_BLOCK,
    "skip": submission.LARGEST_SKIP,
    "label": submission.LONGEST_LABEL,
    "result": replies.LARGEST_RESULT,
    "output": wire.LARGEST_OUTPUT,
    "list": wire.LARGEST_PAGE,
}
"""What HELLO and STATS say of the sizes that the server takes and sends, in bytes, characters or jobs."""

Reply = bytes | Deferred[bytes]


class Verbs:
    """The handlers, by verb; ``connections`` tells how many there are."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        results: Results,
        access: Access,
        clock: Any,
        connections: Callable[[], int],
    ) -> None:
        self._dispatcher = dispatcher
        self._results = results
        self._access = access
        self._clock = clock
        self._connections = connections
        self._started_at = clock.seconds()
        self._handlers: dict[str, Callable[[ICaller, Any], Any]] = {
            "STATUS": self._status,
            "RESULT": self._result,
            "SHOW": self._show,
            "LIST": self._list,
            "OUTPUT": self._output,
            "WAIT": self._wait,
            "CANCEL": self._cancel,
            "RETRY": self._retry,
            "REMOVE": self._remove,
            "HISTORY": self._history,
            "DRAIN": self._drain,
            "STATS": self._stats,
            "HELLO": self._hello,
            "AUTH": self._auth,
            "PING": self._ping,
            "HELP": self._help,
            "QUIT": self._quit,
        }

    def peer(self, connection: Any) -> Principal | None:
        """Return who is behind a socket, None if that takes an AUTH."""
        return self._access.peer(connection)

    def handle(self, caller: ICaller, request: wire.Request, blocks: list[bytes]) -> Reply:
        """Do what a request asks for; raises its error."""
        if caller.principal is None and request.verb not in OPEN and request.verb in wire.VERBS:
            raise AuthRequired(f"{request.verb} needs an AUTH <token> before it")
        if request.error is not None:
            raise request.error
        if request.verb == "SUBMIT":
            return self._submit(caller, request.argument, blocks)
        reply: Reply = self._handlers[request.verb](caller, request.argument)
        return reply

    def _submit(self, caller: ICaller, spec: Spec, blocks: list[bytes]) -> Reply:
        names = [name for name in submission.BLOCKS if getattr(spec, name) is not None]
        owner = caller.principal.name
        accepted = self._dispatcher.submit(spec, owner, dict(zip(names, blocks, strict=True)))
        return accepted.addCallback(replies.job_id)

    def _status(self, caller: ICaller, job_id: int) -> bytes:
        return self._status_of(self._dispatcher.backlog.get(job_id))

    def _status_of(self, job: Job) -> bytes:
        return replies.status(job, self._results.progress(job))

    def _result(self, caller: ICaller, job_id: int) -> Reply:
        job = self._dispatcher.backlog.get(job_id)
        return Deferred.fromCoroutine(self._both_streams(job))

    async def _both_streams(self, job: Job) -> bytes:
        exit_code = job.exit_code  # now: a RETRY may come in between
        stdout, stderr = await self._results.both(job)
        return replies.result(await self._escaped(stdout), await self._escaped(stderr), exit_code)

    async def _escaped(self, data: bytes) -> bytes:
        """Escape a stream piece by piece, so that a large one does not make everybody wait."""
        pieces = []
        for at in range(0, len(data), ESCAPED_AT_ONCE):
            if at:
                await deferLater(self._clock, 0)
            pieces.append(words.escaped(data[at : at + ESCAPED_AT_ONCE]))
        return b"".join(pieces)

    def _show(self, caller: ICaller, job_id: int) -> bytes:
        return replies.as_json("JOB", self._results.describe(self._dispatcher.backlog.get(job_id)))

    def _list(self, caller: ICaller, listing: wire.Listing) -> Reply:
        return Deferred.fromCoroutine(self._send_list(caller, listing))

    async def _send_list(self, caller: ICaller, listing: wire.Listing) -> bytes:
        count = 0
        for looked_at, job in enumerate(self._candidates(listing), 1):
            if count == listing.limit:
                break
            if _matches(job, listing):
                caller.send(replies.as_json("JOB", self._results.describe(job)))
                count += 1
            if looked_at % LOOKED_AT_ONCE == 0:
                await caller.while_connected(deferLater(self._clock, 0))
            await caller.room()
        return replies.end(count)

    def _candidates(self, listing: wire.Listing) -> Any:
        backlog = self._dispatcher.backlog
        if listing.key is not None:
            job = backlog.by_key(listing.key)
            return [] if job is None or not _is_on_page(job, listing) else [job]
        first = backlog.last_id if listing.is_reverse else 1
        return backlog.walk(first if listing.first is None else listing.first, listing.is_reverse)

    def _output(self, caller: ICaller, part: wire.Slice) -> Reply:
        job = self._dispatcher.backlog.get(part.id)
        offset = part.offset
        if part.tail is not None:
            offset = max(0, self._results.size(job, part.stream) - part.tail)
        return self._results.read(job, part.stream, offset, part.limit).addCallback(
            partial(replies.data, part.stream, offset)
        )

    def _wait(self, caller: ICaller, wait: wire.Wait) -> Reply:
        ended = caller.while_connected(self._dispatcher.wait(wait.id))
        if wait.timeout is not None:
            ended.addTimeout(wait.timeout, self._clock)
        return ended.addCallbacks(self._status_of, partial(self._waited_in_vain, wait.id))

    def _waited_in_vain(self, job_id: int, failure: Any) -> bytes:
        failure.trap(defer.TimeoutError)
        status = self._dispatcher.backlog.get(job_id).status.value
        raise TimedOut(f"job {job_id} is still {status}")

    def _cancel(self, caller: ICaller, asked: wire.Cancellation) -> Reply:
        cancelled = self._dispatcher.cancel(asked.id, caller.principal.name, asked.signal)
        return Deferred.fromCoroutine(cancelled).addCallback(self._status_of)

    def _retry(self, caller: ICaller, job_id: int) -> Reply:
        retried = self._dispatcher.retry(job_id, caller.principal.name)
        return Deferred.fromCoroutine(retried).addCallback(lambda job: replies.job_id(job.id))

    def _remove(self, caller: ICaller, job_id: int) -> Reply:
        removed = Deferred.fromCoroutine(self._dispatcher.remove(job_id, caller.principal.name))
        return removed.addCallback(lambda _: replies.OK)

    def _history(self, caller: ICaller, job_id: int) -> Reply:
        self._dispatcher.backlog.get(job_id)
        return self._results.history(job_id).addCallback(replies.events)

    def _drain(self, caller: ICaller, _: None) -> bytes:
        self._dispatcher.drain()
        return replies.OK

    def _stats(self, caller: ICaller, _: None) -> bytes:
        dispatcher = self._dispatcher
        counts = {status.value.lower(): count for status, count in dispatcher.backlog.counts.items()}
        return replies.as_json(
            "STATS",
            {
                "version": __version__,
                "uptime": round(self._clock.seconds() - self._started_at, 3),
                "slots": dispatcher.slots,
                "busy": dispatcher.busy,
                "draining": dispatcher.is_draining,
                "jobs": counts,
                "connections": self._connections(),
                "counters": dispatcher.counters,
                "store": dispatcher.store_state(),
                "limits": LIMITS,
            },
        )

    def _hello(self, caller: ICaller, _: None) -> bytes:
        you = caller.principal._asdict() if caller.principal else None
        hello = {
            "version": __version__,
            "verbs": list(wire.VERBS),
            "options": [f"--{name}" for name in submission.OPTIONS],
            "limits": LIMITS,
            "you": you,
            "auth": ["token"],
        }
        return replies.as_json(f"TASKQ {PROTOCOL_VERSION}", hello)

    def _auth(self, caller: ICaller, token: str) -> bytes:
        principal = caller.identify(partial(self._access.authenticate, token))
        return replies.ok(f"{principal.name} {principal.role}")

    def _ping(self, caller: ICaller, _: None) -> bytes:
        return replies.OK

    def _help(self, caller: ICaller, topic: str | None) -> bytes:
        verbs = wire.VERBS.values() if topic is None else [wire.VERBS[topic]]
        lines = [replies.ok(f"{verb.usage}  {verb.summary}") for verb in verbs]
        if topic == "SUBMIT":
            lines.append(
                replies.ok(
                    "Options: " + " ".join(f"--{name}={value}" for name, value in submission.USAGES.items())
                )
            )
        return b"".join((*lines, replies.END))

    def _quit(self, caller: ICaller, _: None) -> bytes:
        caller.finish()
        return replies.OK


def _is_on_page(job: Job, listing: wire.Listing) -> bool:
    if listing.first is None:
        return True
    return job.id <= listing.first if listing.is_reverse else job.id >= listing.first


def _matches(job: Job, listing: wire.Listing) -> bool:
    return (
        (listing.statuses is None or job.status in listing.statuses)
        and (listing.owner is None or job.owner == listing.owner)
        and (listing.label is None or job.spec.label == listing.label)
        and (listing.key is None or job.spec.key == listing.key)
    )
