"""The keys of ``taskq top``."""

import pytest

from taskqd.cli.top.keys import QUIT, press, read_keys
from taskqd.cli.top.state import Action, Mode, OutputView, State, Verb
from tests.unit.cli.top.samples import SNAPSHOT, STATS, a_job, at


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
        (3, "h", Action(Verb.RELEASE, (3,))),
        (4, "h", Action(Verb.HOLD, (4,))),
        (1, "z", Action(Verb.SUSPEND, (1,))),
        (5, "r", Action(Verb.RETRY, (5,))),
        (1, "q", QUIT),
        (1, "x", None),
    ],
)
def test_key_returns_action(number: int, key: str, action: Action | str | None) -> None:
    state = at(number)
    assert press(state, key) == action
    assert state.message == ""


def test_z_continues_a_suspended_job() -> None:
    state = at(1)
    assert state.job is not None
    state.job["suspended_at"] = "2026-11-24T14:31:26Z"
    try:
        assert press(state, "z") == Action(Verb.CONTINUE, (1,))
    finally:
        del state.job["suspended_at"]


def test_capital_p_resumes_everything_when_paused() -> None:
    state = at(1, SNAPSHOT._replace(stats={**STATS, "paused": True}))
    assert press(state, "P") is None
    assert press(state, "y") == Action(Verb.RESUME)


def test_capital_p_asks_before_it_pauses_everything() -> None:
    state = at(1)
    assert press(state, "P") is None
    assert state.question is not None
    assert state.question.question == "Pause everything?"
    assert press(state, "n") is None
    press(state, "P")
    assert press(state, "y") == Action(Verb.PAUSE)


@pytest.mark.parametrize(
    "number,key,message",
    [
        (1, "h", "only pending jobs can be held"),
        (3, "z", "only running jobs can be suspended"),
        (1, "r", "only finished jobs can be retried"),
        (5, "c", "only pending and running jobs can be cancelled"),
    ],
)
def test_key_that_does_not_apply_to_the_job_shows_a_message(number: int, key: str, message: str) -> None:
    state = at(number)
    assert press(state, key) is None
    assert state.message == message


@pytest.mark.parametrize("key", ["c", "h", "z", "r", "p", "o"])
def test_key_without_a_job_shows_a_message(key: str) -> None:
    state = State()
    assert press(state, key) is None
    assert state.message == "no job is selected"


@pytest.mark.parametrize(
    "answer,action", [("y", Action(Verb.CANCEL, ("30.5",))), ("n", None), ("q", None), ("enter", None)]
)
def test_cancel_key_asks_for_confirmation(answer: str, action: Action | None) -> None:
    state = at(2)
    assert press(state, "c") is None
    assert state.question == Action(Verb.CANCEL, ("30.5",))
    assert press(state, answer) == action
    assert state.question is None


def test_o_shows_the_output_and_q_returns() -> None:
    state = at(2)
    press(state, "o")
    seen = [(state.mode, state.output_view)]
    press(state, "tab")
    assert state.output_view == OutputView("30.5", "stderr")
    press(state, "tab")
    assert state.output_view == OutputView("30.5", "details")
    press(state, "tab")
    assert state.output_view == OutputView("30.5")
    press(state, "up")
    press(state, "page up")
    assert state.scroll == 11
    press(state, "end")
    assert state.scroll == 0
    assert press(state, "q") is None
    assert [*seen, (state.mode, state.output_view)] == [(Mode.OUTPUT, OutputView("30.5")), (Mode.JOBS, None)]


def test_enter_shows_the_details() -> None:
    state = at(2)
    press(state, "enter")
    assert (state.mode, state.output_view) == (Mode.OUTPUT, OutputView("30.5", "details"))


def test_space_marks_jobs_and_keys_act_on_all_of_them() -> None:
    state = at(1)
    press(state, " ")
    press(state, " ")
    assert (state.marked, state.selected) == ({1, 2}, 3)
    press(state, "c")
    assert press(state, "y") == Action(Verb.CANCEL, (1, "30.5"))
    press(state, "escape")
    assert state.marked == set()
    press(state, "c")
    assert press(state, "y") == Action(Verb.CANCEL, (3,))


def test_mark_of_a_job_is_removed_by_the_same_key() -> None:
    state = at(1)
    press(state, " ")
    press(state, "up")
    press(state, " ")
    assert state.marked == set()


def test_slash_filters_by_text_until_escape() -> None:
    state = at(1)
    for key in ("/", "J", "o", "b", "x", "backspace", "-", "2", "enter"):
        assert press(state, key) is None
    assert [job["id"] for job in state.jobs] == [2]
    assert press(state, "q") == QUIT
    press(state, "escape")
    assert len(state.jobs) == 6


def test_filter_searches_the_line_of_a_script() -> None:
    script = a_job(9, "PENDING", command=None, script=20, script_line="make all")
    state = at(1, SNAPSHOT._replace(pending=[script]))
    for key in ("/", *"make", "enter"):
        press(state, key)
    assert state.jobs == [script]


def test_escape_while_typing_ends_the_filter() -> None:
    state = at(1)
    for key in ("/", "z", "escape"):
        press(state, key)
    assert (state.is_typing, state.filter, len(state.jobs)) == (False, "", 6)


def test_s_sorts_each_section_by_queue_then_by_other_fields() -> None:
    running = [a_job(1, "RUNNING", queue="b"), a_job(2, "RUNNING", queue="a")]
    state = at(1, SNAPSHOT._replace(running=running))
    press(state, "s")
    assert [job["id"] for job in state.sections[0]] == [2, 1]
    assert (state.message, state.selected) == ("sorted by queue", 1)
    for _ in range(4):
        press(state, "s")
    assert (state.message, [job["id"] for job in state.sections[0]]) == ("sorted by time", [1, 2])


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
