"""Formats replies (docs/protocol.md §1, §4, §7). Every line ends with CRLF."""

from collections.abc import Iterable
from typing import Any

import msgspec

from taskqd.errors import TaskqError
from taskqd.model.events import Event
from taskqd.model.job import Job
from taskqd.model.submission import Refusal
from taskqd.protocol.documents import describe_event
from taskqd.protocol.values import escaped, timestamp

MAX_RESULT_STREAM = 1024**2
"""Bytes of one stream in RESULT; larger ones are read with OUTPUT."""

OK = b"OK\r\n"
END = b"END\r\n"
DATA_END = b"\r\n"

_ENCODER = msgspec.json.Encoder()
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ")


def job_id(number: int) -> bytes:
    """Return the JOB_ID reply of a job."""
    return b"JOB_ID %d\r\n" % number


def job_ids(results: Iterable[range | Refusal]) -> bytes:
    """Return a line for each submission: its JOB_ID or its ERROR."""
    return b"".join(
        [
            error(result.error) * result.times
            if isinstance(result, Refusal)
            else b"JOB_ID %d\r\n" * len(result) % tuple(result)
            for result in results
        ]
    )


def status(job: Job, progress: int, text: str = "") -> bytes:
    """Return the STATUS reply of a job; `progress` is a whole percentage, `text` what the job says to it."""
    more = b' "%b"' % escaped(text.encode()) if text else b""
    return b"STATUS %b %d%b\r\n" % (job.status.value.encode("ascii"), progress, more)


def result(stdout: bytes, stderr: bytes, exit_code: int | None) -> bytes:
    """Return the RESULT reply of a finished job; both streams must be escaped (`values.escaped`)."""
    return b'RESULT "%b" "%b"%b' % (stdout, stderr, result_end(exit_code))


def result_end(exit_code: int | None) -> bytes:
    """Return the end of a RESULT reply, after the two streams."""
    return b" -\r\n" if exit_code is None else b" %d\r\n" % exit_code


def data(stream: str, offset: int, content: bytes) -> bytes:
    """Return a DATA reply with its bytes."""
    return b"%b%b%b" % (data_begin(stream, offset, len(content)), content, DATA_END)


def data_begin(stream: str, offset: int, length: int) -> bytes:
    """Return the beginning of a DATA reply, before its bytes; DATA_END follows them."""
    return b"DATA %b %d %d\r\n" % (stream.encode("ascii"), offset, length)


def log_data(stream: str, offset: int, content: bytes, at: float | None, is_ordered: bool) -> bytes:
    """Return a DATA reply of LOG, with the time of its bytes and whether their place in the log is known."""
    time = (timestamp(at) or "-").encode("ascii")
    head = b"DATA %b %d %d %b" % (stream.encode("ascii"), offset, len(content), time)
    return b"%b%b\r\n%b%b" % (head, b"" if is_ordered else b" unordered", content, DATA_END)


def log_end(left: int, dropped: int, stdout: int, stderr: int) -> bytes:
    """Return the END of LOG: how many bytes are left, how many were dropped, and where the log goes on.

    `stdout` and `stderr` are the offsets of both streams there.
    """
    return b"END %d %d %d %d %d\r\n" % (stdout + stderr, left, dropped, stdout, stderr)


def ok(text: str) -> bytes:
    """Return an OK reply with a text."""
    return b"OK %b\r\n" % _one_line(text)


def end(count: int, following: int | None = None) -> bytes:
    """Return the END line of a list with the number of its entries.

    If the list is partial, `following` is the id from which to go on.
    """
    return b"END %d\r\n" % count if following is None else b"END %d %d\r\n" % (count, following)


def progress(done: int, total: int) -> bytes:
    """Return the PROGRESS line of an act on many jobs."""
    return b"PROGRESS %d %d\r\n" % (done, total)


def event(sequence: int, event: Event) -> bytes:
    """Return the EVENT line of an event."""
    return b"EVENT %d %b\r\n" % (sequence, _ENCODER.encode(describe_event(event)))


def error(error: TaskqError) -> bytes:
    """Return the ERROR line of an error."""
    return b"ERROR %b %b\r\n" % (error.code.encode("ascii"), _one_line(str(error)))


def as_json(word: str, value: Any) -> bytes:
    """Return a reply of a word, such as `STATS`, and a JSON document."""
    return b"%b %b\r\n" % (word.encode("ascii"), _ENCODER.encode(value))


def _one_line(text: str) -> bytes:
    """Return text without line breaks and other control characters."""
    return text.translate(_CONTROLS).encode("utf-8", "backslashreplace")
