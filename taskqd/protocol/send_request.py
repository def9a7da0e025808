"""SEND: its options, the parser of its arguments, and the size of the block after its line."""

from taskqd.errors import BadRequest, TooLarge
from taskqd.protocol.arguments import OptionType, Table, parse_flag, parse_job_ref, split_words
from taskqd.protocol.option_values import integer
from taskqd.protocol.requests import JobRequest, parse_arguments
from taskqd.protocol.submit import MAX_SKIPPED_BLOCK, sizes_of_blocks
from taskqd.protocol.values import parse_duration

MAX_DATA = 65_536
"""Bytes of one SEND: as many as a pipe holds."""
DEFAULT_TIMEOUT = 10.0
"""Seconds that a SEND without ``--timeout`` waits for a job to read."""


class SendRequest(JobRequest, frozen=True, kw_only=True):
    """SEND `data` bytes, which follow the line, to the stdin of a job, and close that if `is_eof`.

    `data` is None if no block follows. The job has `timeout` seconds to read what was sent before.
    """

    data: int | None = None
    is_eof: bool = False
    timeout: float = DEFAULT_TIMEOUT


_OPTIONS: Table = {
    "data": OptionType("data", integer(0, MAX_SKIPPED_BLOCK), "<n>"),
    "eof": OptionType("is_eof", parse_flag),
    "timeout": OptionType("timeout", parse_duration, "<duration>"),
}


def parse_send(usage: str, text: str) -> SendRequest:
    """Parse SEND; raises TooLarge for data that is skipped but not accepted."""
    (ref,), values = parse_arguments(usage, text, 1, 1, _OPTIONS)
    request = SendRequest(job=parse_job_ref(ref), **values)
    if request.data is None and not request.is_eof:
        raise BadRequest(f"expected {usage}; without --data only --eof can be sent")
    if request.data is not None and request.data > MAX_DATA:
        raise _data_too_large("data", request.data)
    return request


def _data_too_large(name: str, size: object) -> TooLarge:
    return TooLarge(f"--{name}={size} is refused, the limit is {MAX_DATA} bytes; send it in several pieces")


def sizes_of_data(text: str) -> tuple[int, ...]:
    """Return the size of the data that follows a SEND line, if any; `text` is the text after the verb.

    Raises as `submit.block_sizes` does.
    """
    return sizes_of_blocks(text, lambda text: split_words(text).options, ("data",), _data_too_large)
