"""An optimisation: reads many SUBMIT lines at once, before the framing.

Clients that submit in bulk send thousands of SUBMIT lines that have neither blocks nor a key, and refer to no
other job. Such lines are parsed directly out of the receive buffer and handled as one batch. All other lines,
also the ones that are refused, take the way through LineReceiver's framing. Removing this module would change
no reply.
"""

from taskqd.model.submission import Submission
from taskqd.protocol.submit_cache import parse_batchable

_CR = 13


def starts_plain_submission(data: bytes, start: int) -> bool:
    """Whether a line may be a plain submission."""
    return data.startswith(b"SUBMIT ", start)


def read_plain_submissions(
    data: bytes, start: int, max_length: int, max_count: int
) -> tuple[list[Submission], int]:
    """Read plain SUBMIT lines from `start`, the start of a line, up to the first line of another kind.

    Returns the submissions, and where the next line starts.
    """
    submissions: list[Submission] = []
    while (end := data.find(b"\n", start)) >= 0:
        if end - start > max_length:
            break
        try:
            submission = parse_batchable(data, start, end - (data[end - 1] == _CR))
        except Exception:  # noqa: BLE001 - raised again when the line is read alone, and answered there
            break
        if submission is None:
            break
        submissions.append(submission)
        start = end + 1
        if len(submissions) == max_count:
            break
    return submissions, start
