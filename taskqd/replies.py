"""Values -> reply lines and JSON (docs/protocol.md §1, §4, §7); every line ends in CRLF."""

from datetime import datetime, timezone
from signal import Signals
from typing import Any

import msgspec

from taskqd.errors import TaskqError
from taskqd.events import Event
from taskqd.job import Attempt, Job, Spec, Status

LARGEST_RESULT = 1024**2
"""RESULT sends streams of at most so many bytes each; larger ones are read with OUTPUT."""

OK = b"OK\r\n"
END = b"END\r\n"

_ENCODER = msgspec.json.Encoder()
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ")


def job_id(number: int) -> bytes:
    """Return the reply that names a job."""
    return b"JOB_ID %d\r\n" % number


def status(job: Job, progress: int) -> bytes:
    """Return the STATUS reply of a job; ``progress`` is a whole percentage."""
    return b"STATUS %b %d\r\n" % (job.status.value.encode("ascii"), progress)


def result(stdout: bytes, stderr: bytes, exit_code: int | None) -> bytes:
    """Return the RESULT reply of a finished job; both streams come escaped (taskqd.words.escaped)."""
    code = b"-" if exit_code is None else b"%d" % exit_code
    return b'RESULT "%b" "%b" %b\r\n' % (stdout, stderr, code)


def data(stream: str, offset: int, content: bytes) -> bytes:
    """Return a DATA reply with its bytes."""
    return b"DATA %b %d %d\r\n%b\r\n" % (stream.encode("ascii"), offset, len(content), content)


def ok(text: str) -> bytes:
    """Return an OK reply that says more."""
    return b"OK %b\r\n" % _one_line(text)


def end(count: int) -> bytes:
    """Return the line behind a list, with how many there were."""
    return b"END %d\r\n" % count


def events(found: list[tuple[int, Event]]) -> bytes:
    """Return EVENT lines of (sequence, event), and the END behind them; output is told by its sizes only."""
    lines = [b"EVENT %d %b\r\n" % (sequence, _ENCODER.encode(_shown(event))) for sequence, event in found]
    return b"".join((*lines, end(len(found))))


def _shown(event: Event) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(event)
    for name in ("at", "retry_at"):
        if name in shown:
            shown[name] = timestamp(shown[name])
    for name in ("stdout", "stderr"):
        if name in shown:
            shown[name] = {key: shown[name][key] for key in ("size", "dropped") if key in shown[name]}
    return shown


def error(why: TaskqError) -> bytes:
    """Return the ERROR line of a refusal."""
    return b"ERROR %b %b\r\n" % (why.code.encode("ascii"), _one_line(str(why)))


def as_json(word: str, value: Any) -> bytes:
    """Return a reply of one word, such as ``STATS``, and a value as JSON."""
    return b"%b %b\r\n" % (word.encode("ascii"), _ENCODER.encode(value))


def _one_line(text: str) -> bytes:
    return text.translate(_CONTROLS).encode("utf-8", "backslashreplace")


def timestamp(seconds: float | None) -> str | None:
    """Return a time (seconds since the epoch) in RFC 3339, UTC with milliseconds."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(round(seconds, 3), timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def describe(job: Job, progress: int) -> dict[str, Any]:
    """Return a job as the JSON object of docs/protocol.md §4; durations in seconds, sizes in bytes.

    The sizes are those of the latest attempt once it has ended. Fields that have no value are None.
    """
    attempt = job.attempt
    return {
        "id": job.id,
        "command": job.spec.command or None,
        "status": job.status.value,
        "reason": job.reason.value if job.reason else None,
        "progress": progress,
        "exit_code": job.exit_code,
        "signal": _signal_name(attempt.signal) if attempt and job.status.is_final else None,
        "queue": "default",
        "priority": 0,
        "owner": job.owner,
        "label": job.spec.label,
        "key": job.spec.key,
        "attempts": job.attempts,
        "retries": job.spec.retries,
        "timeout": job.spec.timeout,
        "submitted_at": timestamp(job.submitted_at),
        "started_at": timestamp(attempt.started_at) if attempt else None,
        "completed_at": timestamp(job.completed_at),
        "not_before": timestamp(job.not_before),
        "cwd": job.spec.cwd,
        "pid": attempt.pid if attempt and job.status is Status.RUNNING else None,
        "detail": attempt.detail if attempt else None,
        **_sizes(attempt),
        **_given(job.spec),
    }


def _sizes(attempt: Attempt | None) -> dict[str, int]:
    names = ("stdout_bytes", "stderr_bytes", "stdout_dropped", "stderr_dropped")
    return {name: getattr(attempt, name) if attempt else 0 for name in names}


def _given(spec: Spec) -> dict[str, Any]:
    """The other options, as far as they were given: those that differ from what an empty SUBMIT means."""
    given: dict[str, Any] = msgspec.to_builtins(spec)
    names = ("kill_after", "retry_delay", "nice", "max_output", "script", "stdin")
    shown = {name: given[name] for name in names if name in given}
    if "umask" in given:
        shown["umask"] = f"{spec.umask:03o}"
    if spec.env or spec.env_base64:
        data = {name: value.decode("utf-8", "backslashreplace") for name, value in spec.env_base64.items()}
        shown["env"] = {**spec.env, **data}
    return shown


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)
