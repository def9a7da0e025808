"""``taskq top``: keys, rendering at any size, queries, and restoring the terminal."""

import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest
from rich.console import Console

from taskqd.cli.statuses import FINISHED
from taskqd.cli.top import poller, render, screen
from taskqd.cli.top.job_tracker import JobTracker
from taskqd.cli.top.keys import QUIT, press, read_keys
from taskqd.cli.top.poller import Poller, Update
from taskqd.cli.top.state import Action, Mode, OutputView, Snapshot, State, Verb
from taskqd.client import Client, Facts, Unreachable
from tests.fakes.daemon import FakeDaemon, Request, data, refused
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import CHECKOUT, TIMEOUT, Process

NOW = 1_000_000.0
AT = "1970-01-12T13:46:00.000Z"


def a_job(number: int, status: str, **more: object) -> Facts:
    facts: Facts = {
        "id": number,
        "status": status,
        "queue": "default",
        "owner": "ana",
        "command": f"job-{number}",
    }
    times = {"submitted_at": AT, "started_at": AT, "completed_at": AT}
    return {**facts, **times, "exit_code": None, "progress": 0, **more}


def a_queue(name: str, **more: object) -> Facts:
    counts = dict.fromkeys(("pending", "running", "completed", "failed", "cancelled"), 0)
    return {"name": name, "slots": None, "busy": 0, "paused": False, **counts, **more}


STATS: Facts = {
    "slots": 4,
    "busy": 3,
    "uptime": 7200.0,
    "paused": False,
    "draining": False,
    "resources": {"gpu": {"total": 2, "busy": 1}},
    "jobs": {"pending": 2, "running": 2, "completed": 1, "failed": 1, "cancelled": 0},
}
RUNNING = [a_job(1, "RUNNING", progress=40), a_job(2, "RUNNING", queue="q", array=30, index=5)]
PENDING = [a_job(3, "PENDING", held=True, reason="held"), a_job(4, "PENDING", reason="queued")]
ENDED = [a_job(5, "COMPLETED", exit_code=0), a_job(6, "FAILED", exit_code=3)]
SNAPSHOT = Snapshot(
    STATS, [a_queue("default"), a_queue("q", slots=2, busy=1, paused=True)], RUNNING, PENDING, ENDED
)


def at(number: int, snapshot: Snapshot = SNAPSHOT) -> State:
    """Return a state in which the job with this id is selected."""
    state = State(address="unix:/x")
    state.update(snapshot)
    state.move(number - 1)
    return state


# state


def test_state_keeps_selection_on_its_job() -> None:
    state = at(4)
    state.update(SNAPSHOT._replace(running=[*RUNNING, a_job(4, "RUNNING")], pending=PENDING[:1]))
    assert (state.selected, state.index) == (4, 2)


def test_state_keeps_position_of_selection_when_job_is_gone() -> None:
    state = at(6)
    state.update(SNAPSHOT._replace(ended=[]))
    assert (state.selected, state.index) == (4, 3)


def test_state_selects_nothing_without_jobs() -> None:
    state = at(1, SNAPSHOT._replace(running=[], pending=[], ended=[]))
    assert (state.selected, state.job) == (None, None)
    state.update(SNAPSHOT)
    assert state.selected == 1


def test_snapshot_clears_error() -> None:
    state = State(error="unreachable")
    state.update(SNAPSHOT)
    assert state.error == ""


# keys


@pytest.mark.parametrize(
    "typed,keys,rest",
    [
        (b"jq", ["j", "q"], b""),
        (b"\x1b[A\x1bOB", ["up", "down"], b""),
        (b"\x1b[5~\x1b[6~", ["page up", "page down"], b""),
        (b"\t\r", ["tab", "enter"], b""),
        (b"\x1b", ["escape"], b""),
        (b"j\x1b[", ["j"], b"\x1b["),
        (b"\x1b[1;5Cj", ["j"], b""),
        (b"\x1b[200~", [], b""),
        (b"\xff", ["ÿ"], b""),
        (b"", [], b""),
    ],
)
def test_read_keys_decodes_terminal_input(typed: bytes, keys: list[str], rest: bytes) -> None:
    assert read_keys(typed) == (keys, rest)


@pytest.mark.parametrize(
    "key,selected",
    [("j", 4), ("down", 4), ("k", 2), ("up", 2), ("home", 1), ("end", 6), ("page up", 1), ("page down", 6)],
)
def test_movement_keys_select_jobs_and_stop_at_the_ends(key: str, selected: int) -> None:
    state = at(3)
    assert press(state, key) is None
    assert state.selected == selected


@pytest.mark.parametrize(
    "number,key,action",
    [
        (1, "p", Action(Verb.PAUSE, queue="default")),
        (2, "p", Action(Verb.RESUME, queue="q")),
        (1, "P", Action(Verb.PAUSE)),
        (3, "h", Action(Verb.RELEASE, 3)),
        (4, "h", Action(Verb.HOLD, 4)),
        (5, "r", Action(Verb.RETRY, 5)),
        (1, "q", QUIT),
        (1, "x", None),
    ],
)
def test_key_returns_action(number: int, key: str, action: Action | str | None) -> None:
    state = at(number)
    assert press(state, key) == action
    assert state.message == ""


def test_capital_p_resumes_everything_when_paused() -> None:
    assert press(at(1, SNAPSHOT._replace(stats={**STATS, "paused": True})), "P") == Action(Verb.RESUME)


@pytest.mark.parametrize(
    "number,key,message",
    [
        (1, "h", "only pending jobs can be held"),
        (1, "r", "only finished jobs can be retried"),
        (5, "c", "job 5 has already ended"),
    ],
)
def test_key_that_does_not_apply_to_the_job_shows_a_message(number: int, key: str, message: str) -> None:
    state = at(number)
    assert press(state, key) is None
    assert state.message == message


@pytest.mark.parametrize("key", ["c", "h", "r", "p", "o"])
def test_key_without_a_job_shows_a_message(key: str) -> None:
    state = State()
    assert press(state, key) is None
    assert state.message == "no job is selected"


@pytest.mark.parametrize(
    "answer,action", [("y", Action(Verb.CANCEL, "30.5")), ("n", None), ("q", None), ("enter", None)]
)
def test_cancel_key_asks_for_confirmation(answer: str, action: Action | None) -> None:
    state = at(2)
    assert press(state, "c") is None
    assert state.question == Action(Verb.CANCEL, "30.5")
    assert press(state, answer) == action
    assert state.question is None


def test_o_shows_the_output_and_q_returns() -> None:
    state = at(2)
    press(state, "o")
    seen = [(state.mode, state.output_view)]
    press(state, "tab")
    assert state.output_view == OutputView("30.5", "stderr")
    press(state, "tab")
    assert state.output_view == OutputView("30.5")
    press(state, "up")
    press(state, "page up")
    assert state.scroll == 11
    press(state, "end")
    assert state.scroll == 0
    assert press(state, "q") is None
    assert [*seen, (state.mode, state.output_view)] == [(Mode.OUTPUT, OutputView("30.5")), (Mode.JOBS, None)]


def test_output_of_an_array_is_not_shown() -> None:
    tasks = {"count": 5, "completed": 0, "failed": 0, "cancelled": 0}
    state = at(1, SNAPSHOT._replace(running=[a_job(1, "RUNNING", tasks=tasks)]))
    press(state, "o")
    assert (state.mode, state.message) == (Mode.JOBS, "array 1 has no output; select one of its tasks")


def test_any_key_closes_the_help() -> None:
    state = at(1)
    press(state, "?")
    modes = [state.mode]
    assert press(state, "q") is None
    assert [*modes, state.mode] == [Mode.HELP, Mode.JOBS]


# rendering


def drawn(state: State, width: int = 80, height: int = 24) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, height=height, color_system=None).print(
        render.draw(state, width, height, NOW)
    )
    return file.getvalue().split("\n")[:-1]


SCREENS = {
    "jobs": at(1),
    "none": State(address="unix:/x"),
    "idle": at(1, SNAPSHOT._replace(running=[], pending=[], ended=[], queues=[])),
    "many": at(
        250,
        Snapshot(
            STATS,
            [a_queue(f"queue-with-a-long-name-{number}") for number in range(30)],
            [a_job(number, "RUNNING", progress=number % 101, command="x" * 300) for number in range(1, 201)],
            [a_job(number, "PENDING") for number in range(201, 251)],
            [a_job(number, "CANCELLED", command="\x1b[2J漢字" * 40) for number in range(251, 301)],
        ),
    ),
    "help": State(mode=Mode.HELP),
    "output": State(
        mode=Mode.OUTPUT,
        output_view=OutputView(1),
        snapshot=SNAPSHOT._replace(output=b"\x1b[31m\tx\r\n" * 500),
        jobs=RUNNING,
    ),
    "waiting": State(mode=Mode.OUTPUT, output_view=OutputView(1)),
    "question": State(question=Action(Verb.CANCEL, 7)),
}


@pytest.mark.parametrize("width,height", [(200, 60), (80, 24), (60, 12), (34, 9), (20, 5)])
@pytest.mark.parametrize("name", SCREENS)
def test_draw_fills_the_screen_exactly(name: str, width: int, height: int) -> None:
    lines = drawn(SCREENS[name], width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("height", [24, 12, 9, 7])
@pytest.mark.parametrize("number", [1, 3, 6])
def test_draw_shows_the_selected_job(number: int, height: int) -> None:
    (line,) = [line for line in drawn(at(number), 80, height) if line.startswith("▶")]
    assert f"job-{number}" in line


@pytest.mark.parametrize("number", [1, 150, 200, 201, 250, 251, 300])
def test_draw_scrolls_sections_to_the_selected_job(number: int) -> None:
    state = State()
    many = SCREENS["many"].snapshot
    assert many is not None
    state.update(many)
    state.move(number - 1)
    (line,) = [line for line in drawn(state) if line.startswith("▶")]
    assert line.split()[1] == str(number)


def test_draw_shows_all_details_at_80_columns() -> None:
    lines = drawn(at(2))
    assert "3/4 slots  gpu 1/2  2 running, 2 pending" in lines[0]
    assert lines[0].rstrip().endswith("up 2 h")
    text = "\n".join(lines)
    for part in ("1/2", "paused", "40%", "30.5", "held", "ok", "exit 3", "40 s ago"):
        assert part in text
    assert "PAUSED" not in text


def test_section_title_shows_total_number_of_jobs() -> None:
    stats = {**STATS, "jobs": {**STATS["jobs"], "pending": 100_000}}
    lines = [line.rstrip() for line in drawn(at(1, SNAPSHOT._replace(stats=stats)))]
    assert {"running", "pending (2 of 100000)", "ended"} <= set(lines)


def test_draw_shows_running_and_pending_per_queue_on_narrow_screen() -> None:
    queue = a_queue("a-queue-with-a-name", slots=2, busy=1, running=1, pending=100_000)
    lines = drawn(at(1, SNAPSHOT._replace(queues=[queue])), 40)
    assert lines[2].split() == ["a-queue-w…", "1/2", "1", "100000"]


def test_draw_shows_paused_and_draining() -> None:
    head = drawn(at(1, SNAPSHOT._replace(stats={**STATS, "paused": True, "draining": True})))[0]
    assert "PAUSED" in head
    assert "DRAINING" in head


@pytest.mark.parametrize(
    "state,foot",
    [
        (State(), render.KEYS),
        (State(message="job 7 held"), "job 7 held"),
        (State(message="x", error="unreachable\x1b"), r"unreachable\x1B"),
        (State(error="x", question=Action(Verb.CANCEL, 7)), "Cancel job 7? [y/n]"),
        (
            State(mode=Mode.OUTPUT, output_view=OutputView(1)),
            "q back  Tab other stream  ↑↓ scroll  End follow",
        ),
    ],
)
def test_last_line_shows_question_before_error_before_message(state: State, foot: str) -> None:
    assert drawn(state)[-1].rstrip() == foot


def test_output_is_shown_from_its_end_and_wrapped() -> None:
    state = State(mode=Mode.OUTPUT, output_view=OutputView(1), jobs=RUNNING)
    state.snapshot = SNAPSHOT._replace(output=b"1\n" * 50 + b"10%\r20%\r\n" + b"x" * 25 + b"\n\nlast")
    lines = [line.rstrip() for line in drawn(state, 20, 10)]
    assert lines[1].startswith("stdout of job 1  RU")
    assert lines[2:-1] == ["1", "1", "20%", "x" * 20, "x" * 5, "", "last"]
    state.snapshot = SNAPSHOT._replace(output=b"\x1b]0;x\x07\xff\xc2\x9b")
    assert drawn(state, 40, 10)[2].rstrip() == r"\x1B]0;x\x07\xff\x9B"
    state.snapshot = SNAPSHOT._replace(output=b"1\n" * 50 + b"10%\r20%\r\n" + b"x" * 25 + b"\n\nlast")
    state.scroll = 3
    assert [line.rstrip() for line in drawn(state, 20, 10)][2:-1] == ["1"] * 4 + ["1", "20%", "x" * 20][-3:]
    state.scroll = 10**9
    assert [line.rstrip() for line in drawn(state, 20, 10)][2:-1] == ["1"] * 7


# queries


def watch_reply(*events: Facts) -> Iterator[bytes]:
    """Reply to WATCH with these events, then keep the connection open."""
    yield b"OK 1\r\n"
    for number, event in enumerate(events, 1):
        yield b"EVENT %d " % number + json.dumps(event).encode() + b"\r\n"
    while True:
        time.sleep(0.01)
        yield b""


def list_reply(jobs: Sequence[Facts]) -> bytes:
    """Return the reply to a LIST."""
    return b"".join(b"JOB " + json.dumps(job).encode() + b"\r\n" for job in jobs) + b"END 2\r\n"


def answer(request: Request) -> bytes | Iterator[bytes]:
    """Reply as a daemon with jobs of each status."""
    if request.verb == "LIST":
        return list_reply(
            RUNNING if "RUNNING" in request.line else PENDING if "PENDING" in request.line else ENDED
        )
    if request.verb == "SHOW":
        jobs = [job for job in (*RUNNING, *PENDING, *ENDED) if request.line == f"SHOW {job['id']}"]
        return list_reply(jobs).removesuffix(b"END 2\r\n") or refused("GONE", "removed")
    queues = [b"QUEUE " + json.dumps(queue).encode() + b"\r\n" for queue in SNAPSHOT.queues]
    answers: dict[str, bytes | Iterator[bytes]] = {
        "WATCH": watch_reply(),
        "STATS": b"STATS " + json.dumps(STATS).encode() + b"\r\n",
        "QUEUES": b"".join(queues) + b"END 2\r\n",
        "OUTPUT": data("stdout", 0, b"hello from the job\n"),
        "RETRY": b"JOB_ID 5\r\n",
        "PAUSE": b"OK\r\n",
        "RESUME": b"OK\r\n",
    }
    return answers.get(request.verb, b"STATUS PENDING 0\r\n")


def test_poller_requests_lists_once_and_then_only_visible_jobs(serve: Serve) -> None:
    daemon = serve(answer)
    with Client(daemon.address) as client:
        tracker = poller.load_jobs(client)
        tracker.forget(30)
        assert poller.query(client, None, tracker) == SNAPSHOT._replace(ended=ENDED[::-1])
        tracker.forget(30)
        assert poller.query(client, OutputView(1), tracker).output == b"hello from the job\n"
    assert daemon.lines[:7] == [
        "LIST --status=COMPLETED,FAILED,CANCELLED --limit=50 --tasks --reverse",
        "LIST --status=RUNNING --limit=100000 --tasks",
        "SHOW 1",
        "SHOW 2",
        "STATS",
        "QUEUES",
        "LIST --status=PENDING --from=1 --limit=50",
    ]
    assert daemon.lines[7:] == [
        *("SHOW 1", "SHOW 2", "STATS", "QUEUES"),
        *("LIST --status=PENDING --from=3 --limit=50", "OUTPUT 1 stdout --tail=65536"),
    ]


def test_query_omits_job_that_was_removed_meanwhile(serve: Serve) -> None:
    daemon = serve(
        lambda request: refused("GONE", "removed") if request.line == "SHOW 1" else answer(request)
    )
    tracker = JobTracker(5)
    tracker.load(RUNNING[:1])
    with Client(daemon.address) as client:
        assert poller.query(client, None, tracker).running == []


# tracking jobs


def event(kind: str, job: int, **more: object) -> Facts:
    return {"type": kind, "id": job, **more}


def test_job_tracker_derives_jobs_to_query_from_events() -> None:
    tracker = JobTracker(2)
    tracker.on_event({"type": "paused", "by": "ana"})
    for each in (
        event("started", 7),
        event("started", 8),
        event("started", 9),
        event("ended", 8, status="COMPLETED"),
        event("ended", 9, status="PENDING"),
        event("cancelled", 7),
    ):
        tracker.on_event(each)
    assert tracker.jobs_to_query(10) == [7, 8]
    assert tracker.jobs_to_query(0) == [8]
    assert (tracker.running, tracker.ended) == ([], [])
    tracker.update(a_job(7, "RUNNING"))
    tracker.update(a_job(8, "COMPLETED"))
    assert tracker.jobs_to_query(10) == [7]
    assert [job["id"] for job in (*tracker.running, *tracker.ended)] == [7, 8]
    tracker.on_event(event("cancelled", 3))
    tracker.on_event(event("skipped", 4))
    assert tracker.jobs_to_query(10) == [7, 3, 4]
    assert tracker.ended == []


@pytest.mark.parametrize("kind", ["retried", "removed"])
def test_job_tracker_forgets_retried_and_removed_jobs(kind: str) -> None:
    tracker = JobTracker(2)
    tracker.load([a_job(5, "FAILED")])
    tracker.on_event(event(kind, 5))
    assert tracker.ended == []


def test_job_tracker_sorts_jobs_by_status() -> None:
    tracker = JobTracker(2)
    for status in ("RUNNING", "FAILED", "RUNNING", "PENDING", "CANCELLED", "PENDING"):
        tracker.update(a_job(5, status))
        assert len(tracker.running) == (status == "RUNNING")
        assert len(tracker.ended) == (status in FINISHED)


def test_job_tracker_queries_array_of_running_task() -> None:
    tracker = JobTracker(2)
    tracker.update(RUNNING[1])
    assert tracker.jobs_to_query(10) == [2, 30]
    tracker.update(a_job(30, "COMPLETED"))
    assert [job["id"] for job in tracker.ended] == [30]


def test_job_tracker_knows_lowest_id_that_may_be_pending() -> None:
    tracker = JobTracker(2)
    tracker.first_pending = None
    tracker.on_event(event("submitted", 9))
    tracker.on_event(event("submitted", 10))
    assert tracker.first_pending == 9
    tracker.on_event(event("ended", 7, status="PENDING"))
    assert tracker.first_pending == 7
    tracker.update(a_job(6, "PENDING"))
    tracker.on_event(event("retried", 8))
    assert tracker.first_pending == 6


def test_query_skips_pending_list_when_nothing_is_pending(serve: Serve) -> None:
    daemon = serve(lambda request: b"END 0\r\n" if request.verb == "LIST" else answer(request))
    tracker = JobTracker(2)
    with Client(daemon.address) as client:
        assert [poller.query(client, None, tracker).pending for _ in range(2)] == [[], []]
    assert [line for line in daemon.lines if line.startswith("LIST")] == [
        "LIST --status=PENDING --from=1 --limit=50"
    ]


def test_poller_queries_soon_after_an_event(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "POLL_INTERVAL", 1e6)
    monkeypatch.setattr(poller, "EVENT_POLL_INTERVAL", 0.0)
    events = (event("started", 4), event("ended", 5, status="COMPLETED"))
    serve(lambda request: watch_reply(*events) if request.verb == "WATCH" else answer(request))
    updates: SimpleQueue[Update] = SimpleQueue()
    Poller(lambda: Client(os.environ["TASKQ_ADDRESS"]), updates.put).start()
    assert [type(updates.get(timeout=TIMEOUT)) for _ in range(3)] == [Snapshot] * 3


def test_poller_loads_jobs_again_after_lagged(serve: Serve) -> None:
    lagged = iter([refused("LAGGED", "9 is the next")])
    daemon = serve(
        lambda request: next(lagged, None) or watch_reply() if request.verb == "WATCH" else answer(request)
    )
    updates: SimpleQueue[Update] = SimpleQueue()
    Poller(lambda: Client(daemon.address), updates.put).start()
    assert isinstance(updates.get(timeout=TIMEOUT), Snapshot)


@pytest.mark.parametrize(
    "action,line,message",
    [
        (Action(Verb.CANCEL, "30.5"), "CANCEL 30.5", "job 30.5 cancelled"),
        (Action(Verb.HOLD, 4), "HOLD 4", "job 4 held"),
        (Action(Verb.RELEASE, 3), "RELEASE 3", "job 3 released"),
        (Action(Verb.RETRY, 5), "RETRY 5", "job 5 pending again"),
        (Action(Verb.PAUSE, queue="q"), "PAUSE q", "queue q paused"),
        (Action(Verb.RESUME), "RESUME", "everything resumed"),
    ],
)
def test_perform_sends_request_and_returns_message(
    serve: Serve, action: Action, line: str, message: str
) -> None:
    daemon = serve(answer)
    with Client(daemon.address) as client:
        assert poller.perform(client, action) == message
    assert daemon.lines == [line]


def test_perform_returns_text_of_refusal(serve: Serve) -> None:
    daemon = serve(lambda _: refused("WRONG_STATE", "job 4 is RUNNING"))
    with Client(daemon.address) as client:
        assert poller.perform(client, Action(Verb.HOLD, 4)) == "job 4 is RUNNING"


def test_poller_reconnects_after_a_restart(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "POLL_INTERVAL", 0.01)
    daemon = serve(lambda request: None if len(daemon.lines) == 3 else answer(request))
    updates: SimpleQueue[Update] = SimpleQueue()
    thread = Poller(lambda: Client(daemon.address, reconnect=0), updates.put)
    assert thread.start() == daemon.address
    assert isinstance(updates.get(timeout=TIMEOUT), Unreachable)
    assert isinstance(updates.get(timeout=TIMEOUT), Snapshot)
    thread.perform(Action(Verb.HOLD, 4))
    while (update := updates.get(timeout=TIMEOUT)) != "job 4 held":
        assert isinstance(update, Snapshot)
    thread.show_output(OutputView(1))
    while not (isinstance(update := updates.get(timeout=TIMEOUT), Snapshot) and update.output):
        pass
    daemon.close()
    while not isinstance(updates.get(timeout=TIMEOUT), Unreachable):
        pass
    with pytest.raises(Empty):
        updates.get_nowait()


# the terminal


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_top_without_terminal_names_alternatives(call: Call, words: tuple[str, ...]) -> None:
    outcome = call("top", *words)
    assert outcome.code == 2
    assert "taskq queues --json" in outcome.stderr
    assert "taskq list --json" in outcome.stderr


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_top_rejects_dumb_terminal(name: str) -> None:
    words = ("unix:/nowhere", "top")
    with Process(*words, on_terminal=("stdin", "stdout", "stderr"), TERM=name) as process:
        end = process.end()
    assert end.code == 2
    assert f"top does not support a terminal with TERM={name}".encode() in end.terminal


class Screen(Process):
    """``taskq top`` on a terminal of 80x24."""

    def __init__(self, address: str) -> None:
        super().__init__(address, "top", on_terminal=("stdin", "stdout", "stderr"), LANG="C.UTF-8")
        self.resize(80, 24)
        self.before = termios.tcgetattr(self._master)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    @property
    def state(self) -> str:
        """The state of the process in /proc; T if it is stopped."""
        text = Path(f"/proc/{self._process.pid}/stat").read_text()
        return text.rpartition(")")[2].split()[0]

    @property
    def settings(self) -> object:
        return termios.tcgetattr(self._master)

    def type_and_wait(self, text: bytes, shown: bytes) -> None:
        """Type text and wait until ``shown`` appears."""
        self._read["terminal"] = b""
        self.type(text)
        self.read("terminal", shown)

    def wait_for(self, text: bytes) -> None:
        self._read["terminal"] = b""
        self.read("terminal", text)


@pytest.fixture(name="daemon")
def a_daemon_with_jobs(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(answer, tmp_path) as daemon:
        yield daemon


def test_top_obeys_keys_and_restores_the_terminal(daemon: FakeDaemon) -> None:
    with Screen(daemon.address) as view:
        view.read("terminal", b"\x1b[?1049h")
        view.read("terminal", b"job-6")
        assert view.settings != view.before
        view.type_and_wait(b"o", b"hello from the job")
        view.type_and_wait(b"q", b"pending")
        view.type_and_wait(b"\x1b[Bc", b"Cancel job 30.5? [y/n]")
        view.type_and_wait(b"y", b"job 30.5 cancelled")
        view.type_and_wait(b"?", b"Any key closes")
        view.type_and_wait(b" ", b"job-6")
        view.type_and_wait(b"P", b"everything paused")
        view.type(b"q")
        end = view.end()
        assert end.code == 0
        assert end.terminal.rstrip().endswith(b"\x1b[?1049l")
        assert view.settings == view.before
    assert {"CANCEL 30.5", "PAUSE"} <= set(daemon.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_top_and_restores_the_terminal(daemon: FakeDaemon, number: int) -> None:
    with Screen(daemon.address) as view:
        view.read("terminal", b"job-6")
        view.signal(number)
        end = view.end()
        assert end.code == 128 + number
        assert b"\x1b[?1049l" in end.terminal
        assert view.settings == view.before


def test_error_restores_the_terminal() -> None:
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        with suppress(ZeroDivisionError), screen.character_input(slave):
            assert termios.tcgetattr(slave) != before
            raise ZeroDivisionError
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_top_ends_silently_when_terminal_is_gone(daemon: FakeDaemon) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    words = [sys.executable, "-c", "from taskqd.cli import main; main()", "top", "--address", daemon.address]
    with subprocess.Popen(
        words,
        cwd=CHECKOUT,
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(slave)
        seen = b""
        while b"job-6" not in seen:
            seen += os.read(master, 65536)
        os.close(master)
        assert process.stderr
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGHUP


@pytest.mark.needs("bash")
def test_ctrl_z_suspends_top_and_fg_resumes_it(daemon: FakeDaemon) -> None:
    """Runs in a separate interactive shell, because only there can jobs be stopped."""
    shell = "import os, pty; os.environ.update(PS1='$ '); pty.spawn(['bash', '--norc', '-i'])"
    top = f"{sys.executable} -c 'from taskqd.cli import main; main()' top --address {daemon.address}\n"
    with subprocess.Popen(
        [sys.executable, "-c", shell],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
        env={"PATH": "/bin:/usr/bin", "TERM": "xterm", "LANG": "C.UTF-8"},
    ) as process:
        assert process.stdin
        assert process.stdout
        seen = b""

        def type_and_see(typed: bytes, *shown: bytes) -> None:
            nonlocal seen
            assert process.stdin
            assert process.stdout
            process.stdin.write(typed)
            process.stdin.flush()
            deadline = time.monotonic() + TIMEOUT
            for text in shown:
                while text not in seen:
                    assert select.select([process.stdout], [], [], deadline - time.monotonic())[0], seen
                    seen += os.read(process.stdout.fileno(), 65536)
                seen = seen[seen.index(text) + len(text) :]

        try:
            type_and_see(b"", b"$ ")
            type_and_see(b"stty rows 24 cols 80\n" + top.encode(), b"\x1b[?1049h", b"job-6")
            type_and_see(b"\x1a", b"\x1b[?1049l", b"Stopped", b"$ ")
            type_and_see(b"stty -a\n", b" icanon ", b" echo ", b"$ ")
            type_and_see(b"fg\n", b"\x1b[?1049h", b"job-6")
            type_and_see(b"q", b"\x1b[?1049l", b"$ ")
            type_and_see(b"exit\n")
        finally:
            process.stdin.close()
            process.kill()


def test_keys_work_while_the_daemon_does_not_reply(tmp_path: Path) -> None:
    def never(request: Request) -> Iterator[bytes]:
        while True:
            time.sleep(0.01)
            yield b""

    with FakeDaemon(never, tmp_path) as daemon, Screen(daemon.address) as view:
        view.read("terminal", b"waiting for the daemon")
        view.type(b"q")
        assert view.end().code == 0


def test_top_shows_lost_connection_and_reconnects(tmp_path: Path) -> None:
    with FakeDaemon(answer, tmp_path) as daemon, Screen(daemon.address) as view:
        view.read("terminal", b"job-6")
        daemon.close()
        view.wait_for(b"cannot reach the daemon")
        os.unlink(tmp_path / "taskq.sock")
        with FakeDaemon(answer, tmp_path):
            view.type_and_wait(b"", b"q quit")
            view.type(b"q")
            assert view.end().code == 0


def test_top_without_daemon_draws_nothing(tmp_path: Path) -> None:
    with Screen(f"unix:{tmp_path}/none") as view:
        end = view.end()
    assert end.code == 69
    assert b"\x1b[?1049h" not in end.terminal


def test_top_redraws_after_resize(daemon: FakeDaemon) -> None:
    with Screen(daemon.address) as view:
        view.read("terminal", b"job-6")
        view.resize(200, 24)
        view.signal(signal.SIGWINCH)
        view.wait_for(b" " * 90 + b"\x1b")
        view.type(b"q")
        assert view.end().code == 0
