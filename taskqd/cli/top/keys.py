"""Maps keys to changes of the state, actions for the daemon, or quitting."""

from collections.abc import Callable

from taskqd.cli.top.state import Action, Mode, OutputView, State, Verb, ref

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
_CONTROLS = {b"\t": "tab", b"\r": "enter", b"\n": "enter", b"\x1b": "escape"}
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
    if state.mode is Mode.HELP:
        state.mode = Mode.JOBS
        return None
    return _press_in_output(state, key) if state.mode is Mode.OUTPUT else _press_in_jobs(state, key)


def _press_in_output(state: State, key: str) -> Result:
    view = state.output_view
    if key in ("q", "o", "escape") or view is None:
        state.mode = Mode.JOBS
        state.output_view = None
    elif key == "tab":
        state.output_view = OutputView(view.job, "stderr" if view.stream == "stdout" else "stdout")
        state.scroll = 0
    elif key in _MOVES:
        state.scroll = max(0, state.scroll - _MOVES[key])
    return None


def _press_in_jobs(state: State, key: str) -> Result:
    if key == "q":
        return QUIT
    if key in _MOVES:
        state.move(_MOVES[key])
    elif key == "?":
        state.mode = Mode.HELP
    elif key == "P":
        return Action(Verb.RESUME if state.is_paused(None) else Verb.PAUSE)
    elif key in _JOB_KEYS:
        if state.job is None:
            state.message = "no job is selected"
        else:
            return _JOB_KEYS[key](state)
    return None


def _cancel(state: State) -> Result:
    job = state.job or {}
    if job["status"] in ("PENDING", "RUNNING"):
        state.question = Action(Verb.CANCEL, ref(job))
    else:
        state.message = f"job {ref(job)} has already ended"
    return None


def _hold(state: State) -> Result:
    job = state.job or {}
    if job["status"] != "PENDING":
        state.message = "only pending jobs can be held"
        return None
    return Action(Verb.RELEASE if job.get("held") else Verb.HOLD, ref(job))


def _retry(state: State) -> Result:
    job = state.job or {}
    if job["status"] in ("PENDING", "RUNNING"):
        state.message = "only finished jobs can be retried"
        return None
    return Action(Verb.RETRY, ref(job))


def _pause(state: State) -> Result:
    queue = (state.job or {})["queue"]
    return Action(Verb.RESUME if state.is_paused(queue) else Verb.PAUSE, queue=queue)


def _show_output(state: State) -> Result:
    job = state.job or {}
    if job.get("tasks"):
        state.message = f"array {job['id']} has no output; select one of its tasks"
        return None
    state.mode = Mode.OUTPUT
    state.output_view = OutputView(ref(job))
    state.scroll = 0
    return None


_JOB_KEYS: dict[str, Callable[[State], Result]] = {
    "c": _cancel,
    "h": _hold,
    "r": _retry,
    "p": _pause,
    "o": _show_output,
    "enter": _show_output,
}
