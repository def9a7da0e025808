"""Maps keys to changes of the state, actions for the daemon, or quitting."""

from collections.abc import Callable, Sequence

from taskqd.cli.statuses import FINISHED, LIVE, PENDING, RUNNING
from taskqd.cli.top.state import DETAILS, VIEWS, Action, Mode, OutputView, Sort, State, Verb, ref
from taskqd.client import Ref

QUIT = "quit"
"""Result of ``press`` for the key that quits."""

Result = Action | str | None

_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
}
_CONTROLS = {
    b"\t": "tab",
    b"\r": "enter",
    b"\n": "enter",
    b"\x1b": "escape",
    b"\x7f": "backspace",
    b"\x08": "backspace",
}
_MOVES = {
    "up": -1,
    "k": -1,
    "down": 1,
    "j": 1,
    "page up": -10,
    "page down": 10,
    "home": -(10**9),
    "end": 10**9,
}


def read_keys(data: bytes) -> tuple[list[str], bytes]:
    """Return the names of the keys in ``data``, and the bytes of an incomplete key at its end."""
    keys: list[str] = []
    while data:
        if data[:2] in (b"\x1b[", b"\x1bO"):
            end = next((at for at, byte in enumerate(data[2:], 3) if 0x40 <= byte <= 0x7E), 0)
            if not end:
                break
            keys.append(_SEQUENCES.get(data[:end], ""))
            data = data[end:]
        else:
            keys.append(_CONTROLS.get(data[:1]) or data[:1].decode("latin-1"))
            data = data[1:]
    return [key for key in keys if key], data


def press(state: State, key: str) -> Result:
    """Apply a key to the state; return an action for the daemon, QUIT, or None."""
    if state.question is not None:
        question, state.question = state.question, None
        return question if key in ("y", "Y") else None
    state.message = ""
    if state.is_typing:
        _press_in_filter(state, key)
        return None
    if state.mode is Mode.HELP:
        state.mode = Mode.JOBS
        return None
    return _press_in_output(state, key) if state.mode is Mode.OUTPUT else _press_in_jobs(state, key)


def _press_in_filter(state: State, key: str) -> None:
    if key in ("enter", "escape"):
        state.is_typing = False
        state.filter = "" if key == "escape" else state.filter
    elif key == "backspace":
        state.filter = state.filter[:-1]
    elif len(key) == 1 and key.isprintable():
        state.filter += key
    state.arrange()


def _press_in_output(state: State, key: str) -> Result:
    view = state.output_view
    if key in ("q", "o", "escape") or view is None:
        state.mode = Mode.JOBS
        state.output_view = None
    elif key == "tab":
        state.output_view = OutputView(view.job, VIEWS[(VIEWS.index(view.stream) + 1) % len(VIEWS)])
        state.scroll = 0
    elif key in _MOVES:
        state.scroll = max(0, state.scroll - _MOVES[key])
    return None


def _press_in_jobs(state: State, key: str) -> Result:
    if key == "q":
        return QUIT
    if key in _MOVES:
        state.move(_MOVES[key])
    elif key in _LIST_KEYS:
        _LIST_KEYS[key](state)
    elif key in _JOB_KEYS:
        if state.job is not None:
            return _JOB_KEYS[key](state)
        state.message = "no job is selected"
    return None


def _show_help(state: State) -> None:
    state.mode = Mode.HELP


def _pause_everything(state: State) -> None:
    state.question = Action(Verb.RESUME if state.is_paused(None) else Verb.PAUSE)


def _type_filter(state: State) -> None:
    state.is_typing = True


def _show_everything(state: State) -> None:
    state.filter = ""
    state.marked.clear()
    state.arrange()


def _sort_otherwise(state: State) -> None:
    orders = list(Sort)
    state.sort = orders[(orders.index(state.sort) + 1) % len(orders)]
    state.message = f"sorted {state.sort.value}"
    state.arrange()


def _refs(state: State, statuses: Sequence[str]) -> tuple[Ref, ...]:
    """Return the jobs to act on that have one of the statuses."""
    return tuple(ref(job) for job in state.targets if job["status"] in statuses)


def _cancel(state: State) -> Result:
    if jobs := _refs(state, LIVE):
        state.question = Action(Verb.CANCEL, jobs)
    else:
        state.message = "only pending and running jobs can be cancelled"
    return None


def _hold(state: State) -> Result:
    jobs = _refs(state, PENDING)
    if not jobs:
        state.message = "only pending jobs can be held"
        return None
    are_held = all(job.get("held") for job in state.targets if job["status"] in PENDING)
    return Action(Verb.RELEASE if are_held else Verb.HOLD, jobs)


def _suspend(state: State) -> Result:
    jobs = _refs(state, RUNNING)
    if not jobs:
        state.message = "only running jobs can be suspended"
        return None
    are_suspended = all(job.get("suspended_at") for job in state.targets if job["status"] in RUNNING)
    return Action(Verb.CONTINUE if are_suspended else Verb.SUSPEND, jobs)


def _retry(state: State) -> Result:
    jobs = _refs(state, FINISHED)
    if not jobs:
        state.message = "only finished jobs can be retried"
        return None
    return Action(Verb.RETRY, jobs)


def _pause(state: State) -> Result:
    queue = (state.job or {})["queue"]
    return Action(Verb.RESUME if state.is_paused(queue) else Verb.PAUSE, queue=queue)


def _show_output(state: State) -> Result:
    job = state.job or {}
    if job.get("tasks"):
        state.message = f"array {job['id']} has no output; select one of its tasks"
        return None
    _open_view(state, "stdout")
    return None


def _show_details(state: State) -> Result:
    _open_view(state, DETAILS)
    return None


def _open_view(state: State, view: str) -> None:
    state.mode = Mode.OUTPUT
    state.output_view = OutputView(ref(state.job or {}), view)
    state.scroll = 0


_LIST_KEYS: dict[str, Callable[[State], None]] = {
    "?": _show_help,
    "P": _pause_everything,
    "/": _type_filter,
    "escape": _show_everything,
    "s": _sort_otherwise,
    " ": State.toggle_mark,
}
_JOB_KEYS: dict[str, Callable[[State], Result]] = {
    "c": _cancel,
    "h": _hold,
    "z": _suspend,
    "r": _retry,
    "p": _pause,
    "o": _show_output,
    "enter": _show_details,
}
