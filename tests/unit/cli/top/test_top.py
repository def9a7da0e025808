"""``taskq top``: what keys mean, how it looks at any size, and how it leaves a terminal."""

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

from taskqd.cli.top import poller, render, screen
from taskqd.cli.top.job_tracker import FINAL, Tracks
from taskqd.cli.top.keys import QUIT, press, read_keys
from taskqd.cli.top.poller import Asking, Told
from taskqd.cli.top.state import Act, Look, Mode, News, State, Verb
from taskqd.client import Client, Facts, Unreachable
from tests.fakes.daemon import FakeDaemon, Request, data, refused
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.support.command_line import CHECKOUT, PATIENCE, Process

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
NEWS = News(STATS, [a_queue("default"), a_queue("q", slots=2, busy=1, paused=True)], RUNNING, PENDING, ENDED)


def at(number: int, news: News = NEWS) -> State:
    """Return a state in which the job of this id is selected."""
    state = State(address="unix:/x")
    state.learn(news)
    state.move(number - 1)
    return state


# state


def test_the_selection_stays_with_its_job() -> None:
    state = at(4)
    state.learn(NEWS._replace(running=[*RUNNING, a_job(4, "RUNNING")], pending=PENDING[:1]))
    assert (state.selected, state.index) == (4, 2)


def test_the_selection_stays_at_its_place_where_its_job_is_gone() -> None:
    state = at(6)
    state.learn(NEWS._replace(ended=[]))
    assert (state.selected, state.index) == (4, 3)


def test_nothing_is_selected_where_there_is_nothing() -> None:
    state = at(1, NEWS._replace(running=[], pending=[], ended=[]))
    assert (state.selected, state.job) == (None, None)
    state.learn(NEWS)
    assert state.selected == 1


def test_news_ends_trouble() -> None:
    state = State(trouble="nobody")
    state.learn(NEWS)
    assert state.trouble == ""


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
def test_keys_are_read_from_what_a_terminal_sends(typed: bytes, keys: list[str], rest: bytes) -> None:
    assert read_keys(typed) == (keys, rest)


@pytest.mark.parametrize(
    "key,selected",
    [("j", 4), ("down", 4), ("k", 2), ("up", 2), ("home", 1), ("end", 6), ("page up", 1), ("page down", 6)],
)
def test_moves_select_and_stop_at_the_ends(key: str, selected: int) -> None:
    state = at(3)
    assert press(state, key) is None
    assert state.selected == selected


@pytest.mark.parametrize(
    "number,key,act",
    [
        (1, "p", Act(Verb.PAUSE, queue="default")),
        (2, "p", Act(Verb.RESUME, queue="q")),
        (1, "P", Act(Verb.PAUSE)),
        (3, "h", Act(Verb.RELEASE, 3)),
        (4, "h", Act(Verb.HOLD, 4)),
        (5, "r", Act(Verb.RETRY, 5)),
        (1, "q", QUIT),
        (1, "x", None),
    ],
)
def test_keys_are_acts(number: int, key: str, act: Act | str | None) -> None:
    state = at(number)
    assert press(state, key) == act
    assert state.message == ""


def test_p_resumes_everything_where_everything_is_paused() -> None:
    assert press(at(1, NEWS._replace(stats={**STATS, "paused": True})), "P") == Act(Verb.RESUME)


@pytest.mark.parametrize(
    "number,key,why",
    [
        (1, "h", "only a pending job can be held"),
        (1, "r", "only a job that has ended can be run again"),
        (5, "c", "job 5 has ended"),
    ],
)
def test_what_a_job_is_not_ready_for_is_not_asked(number: int, key: str, why: str) -> None:
    state = at(number)
    assert press(state, key) is None
    assert state.message == why


@pytest.mark.parametrize("key", ["c", "h", "r", "p", "o"])
def test_without_a_job_there_is_nothing_to_do(key: str) -> None:
    state = State()
    assert press(state, key) is None
    assert state.message == "there is no job"


@pytest.mark.parametrize(
    "answer,act", [("y", Act(Verb.CANCEL, "30.5")), ("n", None), ("q", None), ("enter", None)]
)
def test_a_cancel_asks_first(answer: str, act: Act | None) -> None:
    state = at(2)
    assert press(state, "c") is None
    assert state.question == Act(Verb.CANCEL, "30.5")
    assert press(state, answer) == act
    assert state.question is None


def test_o_looks_into_the_output_and_q_comes_back() -> None:
    state = at(2)
    press(state, "o")
    seen = [(state.mode, state.look)]
    press(state, "tab")
    assert state.look == Look("30.5", "stderr")
    press(state, "tab")
    assert state.look == Look("30.5")
    press(state, "up")
    press(state, "page up")
    assert state.back == 11
    press(state, "end")
    assert state.back == 0
    assert press(state, "q") is None
    assert [*seen, (state.mode, state.look)] == [(Mode.OUTPUT, Look("30.5")), (Mode.JOBS, None)]


def test_an_array_has_no_output_to_look_into() -> None:
    tasks = {"count": 5, "completed": 0, "failed": 0, "cancelled": 0}
    state = at(1, NEWS._replace(running=[a_job(1, "RUNNING", tasks=tasks)]))
    press(state, "o")
    assert (state.mode, state.message) == (Mode.JOBS, "array 1 prints nothing itself: look into its tasks")


def test_any_key_closes_the_help() -> None:
    state = at(1)
    press(state, "?")
    modes = [state.mode]
    assert press(state, "q") is None
    assert [*modes, state.mode] == [Mode.HELP, Mode.JOBS]


# drawing


def drawn(state: State, width: int = 80, height: int = 24) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, height=height, color_system=None).print(
        render.draw(state, width, height, NOW)
    )
    return file.getvalue().split("\n")[:-1]


SCREENS = {
    "jobs": at(1),
    "none": State(address="unix:/x"),
    "idle": at(1, NEWS._replace(running=[], pending=[], ended=[], queues=[])),
    "many": at(
        250,
        News(
            STATS,
            [a_queue(f"queue-with-a-long-name-{number}") for number in range(30)],
            [a_job(number, "RUNNING", progress=number % 101, command="x" * 300) for number in range(1, 201)],
            [a_job(number, "PENDING") for number in range(201, 251)],
            [a_job(number, "CANCELLED", command="\x1b[2J漢字" * 40) for number in range(251, 301)],
        ),
    ),
    "help": State(mode=Mode.HELP),
    "output": State(
        mode=Mode.OUTPUT, look=Look(1), news=NEWS._replace(output=b"\x1b[31m\tx\r\n" * 500), jobs=RUNNING
    ),
    "waiting": State(mode=Mode.OUTPUT, look=Look(1)),
    "question": State(question=Act(Verb.CANCEL, 7)),
}


@pytest.mark.parametrize("width,height", [(200, 60), (80, 24), (60, 12), (34, 9), (20, 5)])
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_filled_and_nothing_stands_beside_it(name: str, width: int, height: int) -> None:
    lines = drawn(SCREENS[name], width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("height", [24, 12, 9, 7])
@pytest.mark.parametrize("number", [1, 3, 6])
def test_the_selected_job_is_seen(number: int, height: int) -> None:
    (line,) = [line for line in drawn(at(number), 80, height) if line.startswith("▶")]
    assert f"job-{number}" in line


@pytest.mark.parametrize("number", [1, 150, 200, 201, 250, 251, 300])
def test_sections_scroll_to_the_selected_job(number: int) -> None:
    state = State()
    many = SCREENS["many"].news
    assert many is not None
    state.learn(many)
    state.move(number - 1)
    (line,) = [line for line in drawn(state) if line.startswith("▶")]
    assert line.split()[1] == str(number)


def test_all_is_there_at_80_columns() -> None:
    lines = drawn(at(2))
    assert "3/4 slots  gpu 1/2  2 running, 2 pending" in lines[0]
    assert lines[0].rstrip().endswith("up 2 h")
    text = "\n".join(lines)
    for part in ("1/2", "paused", "40%", "30.5", "held", "ok", "exit 3", "40 s ago"):
        assert part in text
    assert "PAUSED" not in text


def test_a_section_says_how_many_jobs_there_are_beside_those_that_are_shown() -> None:
    stats = {**STATS, "jobs": {**STATS["jobs"], "pending": 100_000}}
    lines = [line.rstrip() for line in drawn(at(1, NEWS._replace(stats=stats)))]
    assert {"running", "pending (2 of 100000)", "ended"} <= set(lines)


def test_a_narrow_screen_has_what_runs_and_waits_in_each_queue() -> None:
    queue = a_queue("a-queue-with-a-name", slots=2, busy=1, running=1, pending=100_000)
    lines = drawn(at(1, NEWS._replace(queues=[queue])), 40)
    assert lines[2].split() == ["a-queue-w…", "1/2", "1", "100000"]


def test_what_stands_still_is_said() -> None:
    head = drawn(at(1, NEWS._replace(stats={**STATS, "paused": True, "draining": True})))[0]
    assert "PAUSED" in head
    assert "DRAINING" in head


@pytest.mark.parametrize(
    "state,foot",
    [
        (State(), render.KEYS),
        (State(message="job 7 held"), "job 7 held"),
        (State(message="x", trouble="nobody\x1b"), r"nobody\x1B"),
        (State(trouble="x", question=Act(Verb.CANCEL, 7)), "Cancel job 7? [y/n]"),
        (State(mode=Mode.OUTPUT, look=Look(1)), "q back  Tab the other stream  ↑↓ scroll  End follow"),
    ],
)
def test_the_last_line_says_what_matters_most(state: State, foot: str) -> None:
    assert drawn(state)[-1].rstrip() == foot


def test_an_output_is_shown_from_its_end_and_folded() -> None:
    state = State(mode=Mode.OUTPUT, look=Look(1), jobs=RUNNING)
    state.news = NEWS._replace(output=b"1\n" * 50 + b"10%\r20%\r\n" + b"x" * 25 + b"\n\nlast")
    lines = [line.rstrip() for line in drawn(state, 20, 10)]
    assert lines[1].startswith("stdout of job 1  RU")
    assert lines[2:-1] == ["1", "1", "20%", "x" * 20, "x" * 5, "", "last"]
    state.news = NEWS._replace(output=b"\x1b]0;x\x07\xff\xc2\x9b")
    assert drawn(state, 40, 10)[2].rstrip() == r"\x1B]0;x\x07\xff\x9B"
    state.news = NEWS._replace(output=b"1\n" * 50 + b"10%\r20%\r\n" + b"x" * 25 + b"\n\nlast")
    state.back = 3
    assert [line.rstrip() for line in drawn(state, 20, 10)][2:-1] == ["1"] * 4 + ["1", "20%", "x" * 20][-3:]
    state.back = 10**9
    assert [line.rstrip() for line in drawn(state, 20, 10)][2:-1] == ["1"] * 7


# asking


def watched(*events: Facts) -> Iterator[bytes]:
    """Answer WATCH with these events, and then nothing more for as long as somebody watches."""
    yield b"OK 1\r\n"
    for number, event in enumerate(events, 1):
        yield b"EVENT %d " % number + json.dumps(event).encode() + b"\r\n"
    while True:
        time.sleep(0.01)
        yield b""


def told_of(jobs: Sequence[Facts]) -> bytes:
    """Return the answer to a LIST."""
    return b"".join(b"JOB " + json.dumps(job).encode() + b"\r\n" for job in jobs) + b"END 2\r\n"


def answer(request: Request) -> bytes | Iterator[bytes]:
    """Answer as a daemon with a job of each kind."""
    if request.verb == "LIST":
        return told_of(
            RUNNING if "RUNNING" in request.line else PENDING if "PENDING" in request.line else ENDED
        )
    if request.verb == "SHOW":
        jobs = [job for job in (*RUNNING, *PENDING, *ENDED) if request.line == f"SHOW {job['id']}"]
        return told_of(jobs).removesuffix(b"END 2\r\n") or refused("GONE", "it is")
    queues = [b"QUEUE " + json.dumps(queue).encode() + b"\r\n" for queue in NEWS.queues]
    answers: dict[str, bytes | Iterator[bytes]] = {
        "WATCH": watched(),
        "STATS": b"STATS " + json.dumps(STATS).encode() + b"\r\n",
        "QUEUES": b"".join(queues) + b"END 2\r\n",
        "OUTPUT": data("stdout", 0, b"hello from the job\n"),
        "RETRY": b"JOB_ID 5\r\n",
        "PAUSE": b"OK\r\n",
        "RESUME": b"OK\r\n",
    }
    return answers.get(request.verb, b"STATUS PENDING 0\r\n")


def test_lists_are_read_once_and_then_only_what_is_shown(serve: Serve) -> None:
    daemon = serve(answer)
    with Client(daemon.address) as client:
        tracks = poller.begin(client)
        tracks.forget(30)
        assert poller.ask(client, None, tracks) == NEWS._replace(ended=ENDED[::-1])
        tracks.forget(30)
        assert poller.ask(client, Look(1), tracks).output == b"hello from the job\n"
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


def test_a_job_that_is_removed_meanwhile_is_left_out(serve: Serve) -> None:
    daemon = serve(lambda request: refused("GONE", "it is") if request.line == "SHOW 1" else answer(request))
    tracks = Tracks(5)
    tracks.begin(RUNNING[:1])
    with Client(daemon.address) as client:
        assert poller.ask(client, None, tracks).running == []


# tracks


def happened(kind: str, job: int, **more: object) -> Facts:
    return {"type": kind, "id": job, **more}


def test_events_tell_which_jobs_are_worth_a_question() -> None:
    tracks = Tracks(2)
    tracks.take({"type": "paused", "by": "ana"})
    for event in (
        happened("started", 7),
        happened("started", 8),
        happened("started", 9),
        happened("ended", 8, status="COMPLETED"),
        happened("ended", 9, status="PENDING"),
        happened("cancelled", 7),
    ):
        tracks.take(event)
    assert tracks.questions(10) == [7, 8]
    assert tracks.questions(0) == [8]
    assert (tracks.running, tracks.ended) == ([], [])
    tracks.settle(a_job(7, "RUNNING"))
    tracks.settle(a_job(8, "COMPLETED"))
    assert tracks.questions(10) == [7]
    assert [job["id"] for job in (*tracks.running, *tracks.ended)] == [7, 8]
    tracks.take(happened("cancelled", 3))
    tracks.take(happened("skipped", 4))
    assert tracks.questions(10) == [7, 3, 4]
    assert tracks.ended == []


@pytest.mark.parametrize("kind", ["retried", "removed"])
def test_what_ended_is_let_go_of_where_it_has_not_or_is_gone(kind: str) -> None:
    tracks = Tracks(2)
    tracks.begin([a_job(5, "FAILED")])
    tracks.take(happened(kind, 5))
    assert tracks.ended == []


def test_a_job_belongs_where_its_status_says() -> None:
    tracks = Tracks(2)
    for status in ("RUNNING", "FAILED", "RUNNING", "PENDING", "CANCELLED", "PENDING"):
        tracks.settle(a_job(5, status))
        assert len(tracks.running) == (status == "RUNNING")
        assert len(tracks.ended) == (status in FINAL)


def test_the_array_of_a_task_that_runs_is_asked_about_too() -> None:
    tracks = Tracks(2)
    tracks.settle(RUNNING[1])
    assert tracks.questions(10) == [2, 30]
    tracks.settle(a_job(30, "COMPLETED"))
    assert [job["id"] for job in tracks.ended] == [30]


def test_it_is_known_below_which_id_nothing_is_pending() -> None:
    tracks = Tracks(2)
    tracks.first_pending = None
    tracks.take(happened("submitted", 9))
    tracks.take(happened("submitted", 10))
    assert tracks.first_pending == 9
    tracks.take(happened("ended", 7, status="PENDING"))
    assert tracks.first_pending == 7
    tracks.settle(a_job(6, "PENDING"))
    tracks.take(happened("retried", 8))
    assert tracks.first_pending == 6


def test_where_nothing_is_pending_nothing_pending_is_asked_for(serve: Serve) -> None:
    daemon = serve(lambda request: b"END 0\r\n" if request.verb == "LIST" else answer(request))
    tracks = Tracks(2)
    with Client(daemon.address) as client:
        assert [poller.ask(client, None, tracks).pending for _ in range(2)] == [[], []]
    assert [line for line in daemon.lines if line.startswith("LIST")] == [
        "LIST --status=PENDING --from=1 --limit=50"
    ]


def test_what_happens_is_shown_soon(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "EVERY", 1e6)
    monkeypatch.setattr(poller, "SOON", 0.0)
    events = (happened("started", 4), happened("ended", 5, status="COMPLETED"))
    serve(lambda request: watched(*events) if request.verb == "WATCH" else answer(request))
    told: SimpleQueue[Told] = SimpleQueue()
    Asking(lambda: Client(os.environ["TASKQ_ADDRESS"]), told.put).start()
    assert [type(told.get(timeout=PATIENCE)) for _ in range(3)] == [News] * 3


def test_who_reads_too_slowly_begins_anew(serve: Serve) -> None:
    lagged = iter([refused("LAGGED", "9 is the next")])
    daemon = serve(
        lambda request: next(lagged, None) or watched() if request.verb == "WATCH" else answer(request)
    )
    told: SimpleQueue[Told] = SimpleQueue()
    Asking(lambda: Client(daemon.address), told.put).start()
    assert isinstance(told.get(timeout=PATIENCE), News)


@pytest.mark.parametrize(
    "act,line,said",
    [
        (Act(Verb.CANCEL, "30.5"), "CANCEL 30.5", "job 30.5 cancelled"),
        (Act(Verb.HOLD, 4), "HOLD 4", "job 4 held"),
        (Act(Verb.RELEASE, 3), "RELEASE 3", "job 3 released"),
        (Act(Verb.RETRY, 5), "RETRY 5", "job 5 pending again"),
        (Act(Verb.PAUSE, queue="q"), "PAUSE q", "queue q paused"),
        (Act(Verb.RESUME), "RESUME", "everything resumed"),
    ],
)
def test_acts_are_requests(serve: Serve, act: Act, line: str, said: str) -> None:
    daemon = serve(answer)
    with Client(daemon.address) as client:
        assert poller.do(client, act) == said
    assert daemon.lines == [line]


def test_what_is_refused_is_said(serve: Serve) -> None:
    daemon = serve(lambda _: refused("WRONG_STATE", "job 4 is RUNNING"))
    with Client(daemon.address) as client:
        assert poller.do(client, Act(Verb.HOLD, 4)) == "job 4 is RUNNING"


def test_a_daemon_that_goes_is_asked_again_when_it_is_back(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "EVERY", 0.01)
    daemon = serve(lambda request: None if len(daemon.lines) == 3 else answer(request))
    told: SimpleQueue[Told] = SimpleQueue()
    thread = Asking(lambda: Client(daemon.address, reconnect=0), told.put)
    assert thread.start() == daemon.address
    assert isinstance(told.get(timeout=PATIENCE), Unreachable)
    assert isinstance(told.get(timeout=PATIENCE), News)
    thread.do(Act(Verb.HOLD, 4))
    while (news := told.get(timeout=PATIENCE)) != "job 4 held":
        assert isinstance(news, News)
    thread.look(Look(1))
    while not (isinstance(news := told.get(timeout=PATIENCE), News) and news.output):
        pass
    daemon.close()
    while not isinstance(told.get(timeout=PATIENCE), Unreachable):
        pass
    with pytest.raises(Empty):
        told.get_nowait()


# the terminal


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_without_a_terminal_it_names_what_to_use_in_its_place(call: Call, words: tuple[str, ...]) -> None:
    outcome = call("top", *words)
    assert outcome.code == 2
    assert "taskq queues --json" in outcome.stderr
    assert "taskq list --json" in outcome.stderr


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_on_a_terminal_that_cannot_be_drawn_on_it_says_so(name: str) -> None:
    words = ("unix:/nowhere", "top")
    with Process(*words, on_terminal=("stdin", "stdout", "stderr"), TERM=name) as process:
        end = process.end()
    assert end.code == 2
    assert f"top cannot draw on a terminal with TERM={name}".encode() in end.terminal


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
        """Its letter in /proc: T where it is stopped."""
        text = Path(f"/proc/{self._process.pid}/stat").read_text()
        return text.rpartition(")")[2].split()[0]

    @property
    def settings(self) -> object:
        return termios.tcgetattr(self._master)

    def typed(self, text: bytes, shown: bytes) -> None:
        """Type something, and wait until something new is shown."""
        self._read["terminal"] = b""
        self.type(text)
        self.read("terminal", shown)

    def seen(self, text: bytes) -> None:
        self._read["terminal"] = b""
        self.read("terminal", text)


@pytest.fixture(name="daemon")
def a_daemon_with_jobs(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(answer, tmp_path) as daemon:
        yield daemon


def test_it_is_driven_by_keys_and_leaves_the_terminal_as_it_was(daemon: FakeDaemon) -> None:
    with Screen(daemon.address) as view:
        view.read("terminal", b"\x1b[?1049h")
        view.read("terminal", b"job-6")
        assert view.settings != view.before
        view.typed(b"o", b"hello from the job")
        view.typed(b"q", b"pending")
        view.typed(b"\x1b[Bc", b"Cancel job 30.5? [y/n]")
        view.typed(b"y", b"job 30.5 cancelled")
        view.typed(b"?", b"Any key closes")
        view.typed(b" ", b"job-6")
        view.typed(b"P", b"everything paused")
        view.type(b"q")
        end = view.end()
        assert end.code == 0
        assert end.terminal.rstrip().endswith(b"\x1b[?1049l")
        assert view.settings == view.before
    assert {"CANCEL 30.5", "PAUSE"} <= set(daemon.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(daemon: FakeDaemon, number: int) -> None:
    with Screen(daemon.address) as view:
        view.read("terminal", b"job-6")
        view.signal(number)
        end = view.end()
        assert end.code == 128 + number
        assert b"\x1b[?1049l" in end.terminal
        assert view.settings == view.before


def test_an_error_leaves_the_terminal_as_it_was() -> None:
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        with suppress(ZeroDivisionError), screen.keys_at_once(slave):
            assert termios.tcgetattr(slave) != before
            raise ZeroDivisionError
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_a_terminal_that_goes_away_ends_it_without_a_word(daemon: FakeDaemon) -> None:
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
def test_ctrl_z_leaves_the_terminal_to_the_shell_and_fg_comes_back(daemon: FakeDaemon) -> None:
    """In a shell of its own, as only there are jobs that can be stopped."""
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
            deadline = time.monotonic() + PATIENCE
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


def test_a_daemon_that_does_not_answer_keeps_no_key_from_being_heard(tmp_path: Path) -> None:
    def never(request: Request) -> Iterator[bytes]:
        while True:
            time.sleep(0.01)
            yield b""

    with FakeDaemon(never, tmp_path) as daemon, Screen(daemon.address) as view:
        view.read("terminal", b"waiting for the daemon")
        view.type(b"q")
        assert view.end().code == 0


def test_a_daemon_that_is_gone_is_said_and_waited_for(tmp_path: Path) -> None:
    with FakeDaemon(answer, tmp_path) as daemon, Screen(daemon.address) as view:
        view.read("terminal", b"job-6")
        daemon.close()
        view.seen(b"cannot reach the daemon")
        os.unlink(tmp_path / "taskq.sock")
        with FakeDaemon(answer, tmp_path):
            view.typed(b"", b"q quit")
            view.type(b"q")
            assert view.end().code == 0


def test_no_daemon_at_first_draws_nothing(tmp_path: Path) -> None:
    with Screen(f"unix:{tmp_path}/none") as view:
        end = view.end()
    assert end.code == 69
    assert b"\x1b[?1049h" not in end.terminal


def test_it_follows_the_size_of_the_terminal(daemon: FakeDaemon) -> None:
    with Screen(daemon.address) as view:
        view.read("terminal", b"job-6")
        view.resize(200, 24)
        view.signal(signal.SIGWINCH)
        view.seen(b" " * 90 + b"\x1b")
        view.type(b"q")
        assert view.end().code == 0
