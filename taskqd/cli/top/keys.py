"""Keys -> changes of the state, acts for the daemon, or the end."""

from collections.abc import Callable

from taskqd.cli.top.state import Act, Look, Mode, State, Verb, ref

QUIT = "quit"
"""What ``press`` returns for the end."""

Pressed = Act | str | None

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
    """Return the keys that were pressed, by name, and the beginning of one that has not come whole."""
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


def press(state: State, key: str) -> Pressed:
    """Do what a key means; return an act for the daemon, QUIT, or nothing."""
    if state.question is not None:
        question, state.question = state.question, None
        return question if key in ("y", "Y") else None
    state.message = ""
    if state.mode is Mode.HELP:
        state.mode = Mode.JOBS
        return None
    return _in_output(state, key) if state.mode is Mode.OUTPUT else _in_jobs(state, key)


def _in_output(state: State, key: str) -> Pressed:
    look = state.look
    if key in ("q", "o", "escape") or look is None:
        state.mode = Mode.JOBS
        state.look = None
    elif key == "tab":
        state.look = Look(look.job, "stderr" if look.stream == "stdout" else "stdout")
        state.back = 0
    elif key in _MOVES:
        state.back = max(0, state.back - _MOVES[key])
    return None


def _in_jobs(state: State, key: str) -> Pressed:
    if key == "q":
        return QUIT
    if key in _MOVES:
        state.move(_MOVES[key])
    elif key == "?":
        state.mode = Mode.HELP
    elif key == "P":
        return Act(Verb.RESUME if state.is_paused(None) else Verb.PAUSE)
    elif key in _OF_A_JOB:
        if state.job is None:
            state.message = "there is no job"
        else:
            return _OF_A_JOB[key](state)
    return None


def _cancel(state: State) -> Pressed:
    job = state.job or {}
    if job["status"] in ("PENDING", "RUNNING"):
        state.question = Act(Verb.CANCEL, ref(job))
    else:
        state.message = f"job {ref(job)} has ended"
    return None


def _hold(state: State) -> Pressed:
    job = state.job or {}
    if job["status"] != "PENDING":
        state.message = "only a pending job can be held"
        return None
    return Act(Verb.RELEASE if job.get("held") else Verb.HOLD, ref(job))


def _retry(state: State) -> Pressed:
    job = state.job or {}
    if job["status"] in ("PENDING", "RUNNING"):
        state.message = "only a job that has ended can be run again"
        return None
    return Act(Verb.RETRY, ref(job))


def _pause(state: State) -> Pressed:
    queue = (state.job or {})["queue"]
    return Act(Verb.RESUME if state.is_paused(queue) else Verb.PAUSE, queue=queue)


def _query(state: State) -> Pressed:
    job = state.job or {}
    if job.get("tasks"):
        state.message = f"array {job['id']} prints nothing itself: look into its tasks"
        return None
    state.mode = Mode.OUTPUT
    state.look = Look(ref(job))
    state.back = 0
    return None


_OF_A_JOB: dict[str, Callable[[State], Pressed]] = {
    "c": _cancel,
    "h": _hold,
    "r": _retry,
    "p": _pause,
    "o": _query,
    "enter": _query,
}
