"""Queries the daemon and sends it actions, in a thread.

It uses two connections: one watches events; the other sends queries, shortly after an event and otherwise
periodically. The cost of a query does not depend on the number of jobs.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue

from taskqd.cli.display.text import fact_lines, headline, with_local_times
from taskqd.cli.ordered_lists import list_in_line
from taskqd.cli.statuses import FINISHED
from taskqd.cli.top.job_tracker import JobTracker
from taskqd.cli.top.state import DETAILS, Action, OutputView, Snapshot, Verb
from taskqd.client import Client, Facts, Ref, Refused, Unreachable

POLL_INTERVAL = 1.0
"""Interval of queries without events (seconds); an action is followed by a query at once."""
EVENT_POLL_INTERVAL = 0.4
"""Minimum interval of queries with events (seconds)."""
MAX_RUNNING = 100
MAX_PENDING = 50
MAX_ENDED = 50
"""Maximum number of jobs in each section."""
DETAIL_LINES = 20
"""Number of last lines of each stream in the details of a job."""
TAIL_SIZE = 64 * 1024
"""Part of an output that is requested, from its end (bytes)."""

Update = Snapshot | Unreachable | str
"""A report of the thread: a snapshot, why there is none, or the result of an action."""


def load_jobs(client: Client) -> JobTracker:
    """Return the running jobs and the latest ends by LIST requests."""
    tracker = JobTracker(MAX_ENDED)
    ended = client.list(status=",".join(FINISHED), tasks=True, reverse=True, limit=MAX_ENDED)
    tracker.load(sorted(ended, key=lambda job: job["completed_at"] or ""))
    tracker.load(client.list(status="RUNNING", tasks=True, limit=100_000))
    return tracker


def query(client: Client, view: OutputView | None, tracker: JobTracker) -> Snapshot:
    """Return a snapshot of the daemon."""
    for job in tracker.jobs_to_query(MAX_RUNNING):
        try:
            tracker.update(client.show(job))
        except Refused:  # it was removed meanwhile
            tracker.forget(job)
    return Snapshot(
        stats=client.stats(),
        queues=client.queues(),
        running=tracker.running[:MAX_RUNNING],
        pending=_pending(client, tracker),
        ended=tracker.ended,
        output=None if view is None else read_view(client, view),
    )


def _pending(client: Client, tracker: JobTracker) -> Sequence[Facts]:
    """Return the pending jobs that start next; no request is sent if there is no pending job."""
    if not tracker.may_have_pending:
        return []
    pending = list_in_line(client, MAX_PENDING)
    tracker.may_have_pending = bool(pending)
    return pending


def read_view(client: Client, view: OutputView) -> bytes:
    """Return what a view shows, as the output of a job is shown."""
    if view.stream != DETAILS:
        return _read_tail(client, view)
    try:
        facts, why = client.show(view.job), client.why(view.job)
    except Refused as refusal:
        return f"({refusal.text})".encode()
    now = time.time()
    lines = [headline(facts, now), why, "", *fact_lines({**facts, "runs": None})]
    text = with_local_times("\n".join(lines), now).encode()
    if facts.get("tasks"):
        return text
    streams = (_read_tail(client, OutputView(view.job, stream)) for stream in ("stdout", "stderr"))
    ends = (b"\n".join(tail.rstrip(b"\n").split(b"\n")[-DETAIL_LINES:]) for tail in streams)
    return text + b"".join(b"\n\n%b:\n%b" % part for part in zip((b"stdout", b"stderr"), ends, strict=True))


def _read_tail(client: Client, view: OutputView) -> bytes:
    try:
        return client.output(view.job, view.stream, tail=TAIL_SIZE).data
    except Refused as refusal:
        return f"({refusal.text})".encode()


def perform(client: Client, action: Action) -> str:
    """Send an action to the daemon; return a message about its result."""
    try:
        if not action.jobs:
            (client.pause if action.verb is Verb.PAUSE else client.resume)(action.queue)
            return f"{action.subject} {action.verb.value}"
        requests: dict[Verb, Callable[[Ref], object]] = {
            Verb.CANCEL: client.cancel,
            Verb.HOLD: client.hold,
            Verb.RELEASE: client.release,
            Verb.SUSPEND: client.suspend,
            Verb.CONTINUE: client.continue_,
            Verb.RETRY: client.retry,
        }
        return _perform_on_each(requests[action.verb], action)
    except Refused as refusal:
        return refusal.text


def _perform_on_each(request: Callable[[Ref], object], action: Action) -> str:
    """Send a request for each job; return a message, with the last refusal if there was one."""
    refusals = []
    for job in action.jobs:
        try:
            request(job)
        except Refused as refusal:
            refusals.append(refusal.text)
    if not refusals:
        return f"{action.subject} {action.verb.value}"
    if len(action.jobs) == 1:
        return refusals[0]
    return (
        f"{len(action.jobs) - len(refusals)} of {action.subject} {action.verb.value}; the last refusal: "
        f"{refusals[-1]}"
    )


class Poller:
    """The thread; it calls ``on_update`` with every update, and reconnects after restarts of the daemon.

    ``start`` opens the first connection in the caller's thread, so that the caller gets its errors.
    """

    def __init__(self, connect: Callable[[], Client], on_update: Callable[[Update], None]) -> None:
        self._connect = connect
        self._on_update = on_update
        self._commands: SimpleQueue[Action | OutputView | None] = SimpleQueue()
        self._view: OutputView | None = None
        self._client: Client | None = None

    def start(self) -> str:
        """Connect and start the thread; return the daemon's address. Raises Unreachable or Refused."""
        self._client = self._connect()
        address = self._client.address
        # A daemon thread does not delay the exit while it waits for a reply.
        threading.Thread(target=self._run, daemon=True).start()
        return address

    def perform(self, action: Action) -> None:
        """Send an action to the daemon."""
        self._commands.put(action)

    def show_output(self, view: OutputView | None) -> None:
        """Request an output with each query, or none."""
        self._commands.put(view)

    def _run(self) -> None:
        while True:
            try:
                with self._client or self._connect() as client, client.another() as watcher:
                    self._client = None
                    self._poll(client, watcher.watch())
            except (Unreachable, Refused) as error:
                if isinstance(error, Refused) and error.next is not None:
                    continue  # events were missed: load the jobs again
                self._on_update(error if isinstance(error, Unreachable) else Unreachable(error.text))
                time.sleep(POLL_INTERVAL)

    def _poll(self, client: Client, events: Iterator[Facts | None]) -> None:
        """Send queries until the daemon stops answering."""
        next(events)  # the watch has started, so events cover what happens after the lists
        tracker = load_jobs(client)
        while True:
            self._on_update(query(client, self._view, tracker))
            self._wait(client, events, tracker)

    def _wait(self, client: Client, events: Iterator[Facts | None], tracker: JobTracker) -> None:
        """Wait until the next query is due, or perform an action when there is one."""
        queried_at = time.monotonic()
        has_event = False
        for event in events:
            if event:
                tracker.on_event(event)
                has_event = True
            if self._run_command(client):
                return
            if time.monotonic() - queried_at >= (EVENT_POLL_INTERVAL if has_event else POLL_INTERVAL):
                return

    def _run_command(self, client: Client) -> bool:
        """Run a command of the main thread; return whether there was one."""
        try:
            command = self._commands.get_nowait()
        except Empty:
            return False
        if isinstance(command, Action):
            self._on_update(perform(client, command))
        else:
            self._view = command
        return True
