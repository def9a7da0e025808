"""Rendering the screen of ``taskq top`` at any size."""

import io

import pytest
from rich.console import Console

from taskqd.cli.top import render
from taskqd.cli.top.state import Action, Mode, OutputView, Snapshot, State, Verb
from tests.support.cli_calls import plain_environment  # noqa: F401 - this is a fixture
from tests.unit.cli.top.samples import RUNNING, SNAPSHOT, STATS, a_job, a_queue, at

NOW = 1_000_000.0


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
    "question": State(question=Action(Verb.CANCEL, (7,))),
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


def test_running_job_shows_its_progress_and_its_memory_if_there_is_room() -> None:
    jobs = [a_job(1, "RUNNING", progress=0), a_job(2, "RUNNING", progress=40)]
    state = at(1, SNAPSHOT._replace(running=[{**job, "memory_used": 1288490189} for job in jobs]))
    for width, count in ((120, 2), (80, 1)):
        assert "\n".join(drawn(state, width, 24)).count("mem 1.2 GiB") == count


def test_suspended_job_says_so_in_place_of_its_progress() -> None:
    suspended = a_job(1, "RUNNING", progress=40, suspended_at="2026-11-24T14:31:26Z")
    shown = "\n".join(drawn(at(1, SNAPSHOT._replace(running=[suspended]))))
    assert "suspended" in shown
    assert "40%" not in shown


def test_progress_text_leaves_room_for_the_command_on_a_narrow_screen() -> None:
    job = a_job(1, "RUNNING", progress=40, progress_text="epoch 5 of 100, step 3 of 7", command="./train")
    for width, text in ((120, "epoch 5 of 100, step 3 …"), (80, "epoch 5 of 10…")):
        assert f" {text} ./train" in "\n".join(drawn(at(1, SNAPSHOT._replace(running=[job])), width, 24))


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
        (State(error="x", question=Action(Verb.CANCEL, (7,))), "Cancel job 7? [y/n]"),
        (
            State(mode=Mode.OUTPUT, output_view=OutputView(1)),
            "q back  Tab next view  ↑↓ scroll  End follow",
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
