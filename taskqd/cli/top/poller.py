"""Asks the daemon for what is to be shown, and for what is to be done, in a thread of its own.

Two connections: on one it watches what happens, on the other it asks, soon after something has happened and
otherwise once in a while. All questions are such that their cost does not grow with the backlog.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue

from taskqd.cli.top.job_tracker import FINAL, Tracks
from taskqd.cli.top.state import Act, Look, News, Verb
from taskqd.client import Client, Facts, Ref, Refused, Unreachable

EVERY = 1.0
"""It asks once in so many seconds where nothing happens, and at once after something was done."""
SOON = 0.4
"""It asks so many seconds after it last did where something has happened."""
MOST_RUNNING = 100
MOST_PENDING = 50
MOST_ENDED = 50
"""So many jobs of each kind are asked for."""
TAIL = 64 * 1024
"""So many bytes of an output are looked at, from its end."""

Told = News | Unreachable | str
"""What the thread tells: news, why there is none, or what an act has come to."""


def begin(client: Client) -> Tracks:
    """Return what runs and what ended last, by lists: they cost the daemon a look at every job."""
    tracks = Tracks(MOST_ENDED)
    ended = client.list(status=",".join(FINAL), tasks=True, reverse=True, limit=MOST_ENDED)
    tracks.begin(sorted(ended, key=lambda job: job["completed_at"] or ""))
    tracks.begin(client.list(status="RUNNING", tasks=True, limit=100_000))
    return tracks


def ask(client: Client, look: Look | None, tracks: Tracks) -> News:
    """Return what is to be shown now."""
    for job in tracks.questions(MOST_RUNNING):
        try:
            tracks.settle(client.show(job))
        except Refused:  # it has been removed meanwhile
            tracks.forget(job)
    return News(
        stats=client.stats(),
        queues=client.queues(),
        running=tracks.running[:MOST_RUNNING],
        pending=_pending(client, tracks),
        ended=tracks.ended,
        output=None if look is None else _tail(client, look),
    )


def _pending(client: Client, tracks: Tracks) -> Sequence[Facts]:
    """Return the first pending jobs by id; it is known below which id there are none."""
    if tracks.first_pending is None:
        return []
    pending = client.list(status="PENDING", start=tracks.first_pending, limit=MOST_PENDING)
    tracks.first_pending = pending[0]["id"] if pending else None
    return pending


def _tail(client: Client, look: Look) -> bytes:
    try:
        return client.output(look.job, look.stream, tail=TAIL).data
    except Refused as refusal:
        return f"({refusal.text})".encode()


def do(client: Client, act: Act) -> str:
    """Do something; return what to say of it."""
    try:
        if act.job is None:
            (client.pause if act.verb is Verb.PAUSE else client.resume)(act.queue)
            return f"{act.subject} {act.verb.value}"
        acts: dict[Verb, Callable[[Ref], object]] = {
            Verb.CANCEL: client.cancel,
            Verb.HOLD: client.hold,
            Verb.RELEASE: client.release,
            Verb.RETRY: client.retry,
        }
        acts[act.verb](act.job)
        return f"{act.subject} {act.verb.value}"
    except Refused as refusal:
        return refusal.text


class Asking:
    """The thread: ``told`` is called in it with all that it learns; it goes on over restarts of the daemon.

    The first connection is made by ``start``, in the caller's thread, so that its failure is the caller's.
    """

    def __init__(self, connect: Callable[[], Client], told: Callable[[Told], None]) -> None:
        self._connect = connect
        self._told = told
        self._asked: SimpleQueue[Act | Look | None] = SimpleQueue()
        self._query: Look | None = None
        self._client: Client | None = None

    def start(self) -> str:
        """Connect and begin; return the daemon's address. Raises Unreachable or Refused."""
        self._client = self._connect()
        address = self._client.address
        # A daemon thread: the end need not wait for a daemon that does not answer.
        threading.Thread(target=self._run, daemon=True).start()
        return address

    def do(self, act: Act) -> None:
        """Have something done."""
        self._asked.put(act)

    def look(self, look: Look | None) -> None:
        """Have an output asked for too, or none."""
        self._asked.put(look)

    def _run(self) -> None:
        while True:
            try:
                with self._client or self._connect() as client, client.another() as watcher:
                    self._client = None
                    self._show(client, watcher.watch())
            except (Unreachable, Refused) as error:
                if isinstance(error, Refused) and error.next is not None:
                    continue  # so much has happened that it is quicker to begin anew
                self._told(error if isinstance(error, Unreachable) else Unreachable(error.text))
                time.sleep(EVERY)

    def _show(self, client: Client, events: Iterator[Facts | None]) -> None:
        """Tell what there is for as long as the daemon answers."""
        next(events)  # it watches from now on: what the lists do not tell any more, the events do
        tracks = begin(client)
        while True:
            self._told(ask(client, self._query, tracks))
            self._wait(client, events, tracks)

    def _wait(self, client: Client, events: Iterator[Facts | None], tracks: Tracks) -> None:
        """Wait for the next time to ask, or until something is to be done, and do it."""
        asked_at = time.monotonic()
        has_happened = False
        for event in events:
            if event:
                tracks.take(event)
                has_happened = True
            if self._has_done(client):
                return
            if time.monotonic() - asked_at >= (SOON if has_happened else EVERY):
                return

    def _has_done(self, client: Client) -> bool:
        """Do what was asked for meanwhile; whether there was something."""
        try:
            asked = self._asked.get_nowait()
        except Empty:
            return False
        if isinstance(asked, Act):
            self._told(do(client, asked))
        else:
            self._query = asked
        return True
