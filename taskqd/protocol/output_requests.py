"""The verbs that read the output of a job: OUTPUT, LOG and FOLLOW."""

from taskqd.errors import BadRequest
from taskqd.protocol.arguments import OptionType, Table, parse_flag, parse_job_ref
from taskqd.protocol.requests import JobRequest, parse_arguments, parse_number, parse_positive
from taskqd.protocol.values import parse_size

DEFAULT_OUTPUT_LIMIT = 1024**2
"""Bytes in one reply to OUTPUT without `--limit`."""
MAX_OUTPUT_LIMIT = 16 * 1024**2
"""Bytes in one reply to OUTPUT; a larger `--limit` is reduced to this."""


class OutputRequest(JobRequest, frozen=True, kw_only=True):
    """OUTPUT: a part of a stream of an attempt, by default the latest; in bytes, `tail` from the end.

    The stream `script` is the job's script.
    """

    stream: str
    attempt: int | None = None
    offset: int = 0
    limit: int = DEFAULT_OUTPUT_LIMIT
    tail: int | None = None


class LogRequest(JobRequest, frozen=True, kw_only=True):
    """LOG: both streams of an attempt in order, by default of the latest, or only `stream`.

    It begins at byte `since` of the log, behind the offsets of `stdout` and `stderr`, or with the last
    `tail_lines`, and goes on to `limit` bytes, or with `is_followed` to the end of the job.
    """

    attempt: int | None = None
    stream: str | None = None
    since: int = 0
    stdout: int = 0
    stderr: int = 0
    tail_lines: int | None = None
    limit: int = DEFAULT_OUTPUT_LIMIT
    is_followed: bool = False


class FollowRequest(JobRequest, frozen=True, kw_only=True):
    """FOLLOW the output of a job, from an offset of each stream, in bytes."""

    stdout: int = 0
    stderr: int = 0


_OUTPUT_OPTIONS: Table = {
    "attempt": OptionType("attempt", parse_positive),
    "offset": OptionType("offset", parse_number),
    "limit": OptionType("limit", parse_size),
    "tail": OptionType("tail", parse_size),
}


def parse_output(usage: str, text: str) -> OutputRequest:
    """Parse OUTPUT."""
    (ref, stream), values = parse_arguments(usage, text, 2, 2, _OUTPUT_OPTIONS)
    if stream.lower() not in ("stdout", "stderr", "script"):
        raise BadRequest(f"expected stdout, stderr or script, not {stream[:40]!r}")
    if stream.lower() == "script" and "attempt" in values:
        raise BadRequest("--attempt is for stdout and stderr; all attempts have one script")
    if "tail" in values and "offset" in values:
        raise BadRequest("--tail counts from the end and --offset from the start; give one of them")
    limit = values.pop("limit", values.get("tail", DEFAULT_OUTPUT_LIMIT))
    values["limit"] = min(limit, MAX_OUTPUT_LIMIT)
    return OutputRequest(job=parse_job_ref(ref), stream=stream.lower(), **values)


def _parse_stream(text: str) -> str:
    if text.lower() not in ("stdout", "stderr"):
        raise BadRequest(f"expected stdout or stderr, not {text[:40]!r}")
    return text.lower()


_LOG_OPTIONS: Table = {
    "attempt": OptionType("attempt", parse_positive),
    "stream": OptionType("stream", _parse_stream),
    "since": OptionType("since", parse_number),
    "stdout": OptionType("stdout", parse_number),
    "stderr": OptionType("stderr", parse_number),
    "tail-lines": OptionType("tail_lines", parse_number),
    "limit": OptionType("limit", parse_size),
    "follow": OptionType("is_followed", parse_flag),
}


def parse_log(usage: str, text: str) -> LogRequest:
    """Parse LOG."""
    (ref,), values = parse_arguments(usage, text, 1, 1, _LOG_OPTIONS)
    has_offsets = "stdout" in values or "stderr" in values
    if ("since" in values) + has_offsets + ("tail_lines" in values) > 1:
        raise BadRequest("--since, --tail-lines, and the offsets --stdout and --stderr exclude each other")
    for name in ("attempt", "limit"):
        if name in values and "is_followed" in values:
            raise BadRequest(f"--follow sends all to the end of the job, without --{name}")
    limit = values.pop("limit", DEFAULT_OUTPUT_LIMIT)
    return LogRequest(job=parse_job_ref(ref), limit=min(limit, MAX_OUTPUT_LIMIT), **values)


_FOLLOW_OPTIONS: Table = {
    "stdout": OptionType("stdout", parse_number),
    "stderr": OptionType("stderr", parse_number),
}


def parse_follow(usage: str, text: str) -> FollowRequest:
    """Parse FOLLOW."""
    (ref,), values = parse_arguments(usage, text, 1, 1, _FOLLOW_OPTIONS)
    return FollowRequest(job=parse_job_ref(ref), **values)
