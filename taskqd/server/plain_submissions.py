"""An optimisation: reads many SUBMIT lines at once, before the framing.

Clients that submit in bulk send thousands of SUBMIT lines that have neither blocks nor a key, and refer to no
other job. Such lines are parsed directly out of the receive buffer and handled as one batch. All other lines,
also the ones that are refused, take the way through LineReceiver's framing. Removing this module would change
no reply.
"""

from taskqd.model.submission import SimilarSubmissions
from taskqd.protocol.submit_cache import parse_batchable


def starts_plain_submission(data: bytes, start: int) -> bool:
    """Whether a line may be a plain submission."""
    return data.startswith(b"SUBMIT ", start)


def read_plain_submissions(
    data: bytes, start: int, max_length: int, max_count: int
) -> tuple[list[SimilarSubmissions], int, int]:
    """Read plain SUBMIT lines from `start`, the start of a line, up to the first line of another kind.

    Returns the submissions, their number, and where the next line starts.
    """
    end, count = data.rfind(b"\n", start) + 1, data.count(b"\n", start)
    if count > max_count:
        end, count = _end_of_lines(data, start, max_count), max_count
    lines = data[start:end]
    if not count or (len(lines) > max_length and max(map(len, lines.split(b"\n"))) > max_length):
        return [], 0, start
    try:
        submissions, parsed = parse_batchable(lines.decode("latin-1"), count)
    except Exception:  # noqa: BLE001 - raised again when each line is read alone, and answered there
        return [], 0, start
    return submissions, parsed, end if parsed == count else _end_of_lines(data, start, parsed)


def _end_of_lines(data: bytes, start: int, count: int) -> int:
    for _ in range(count):
        start = data.index(b"\n", start) + 1
    return start
