"""The requests that change jobs, such as CANCEL, HOLD and SET, for one job or for many.

In place of an id, filters select many jobs (docs/protocol.md §3). SET has options that are named as filters
are, so two of its filters have other names.
"""

import signal
from typing import Any

from taskqd.errors import BadRequest
from taskqd.model.job_filter import JobFilter
from taskqd.model.job_ref import JobRef
from taskqd.protocol.arguments import OptionType, Table, parse_flag, parse_job_id, parse_job_ref, split_words
from taskqd.protocol.requests import FILTER_OPTIONS, EmptyRequest, JobRequest, parse_arguments, pop_filter
from taskqd.protocol.submit import SET_OPTIONS, SUBMIT_OPTIONS, check_blocks, resolve_time, sizes_of_blocks
from taskqd.protocol.values import parse_signal


class CancelRequest(JobRequest, frozen=True, kw_only=True):
    """CANCEL a job with a signal; with `is_cascade` also the jobs that depend on it."""

    signal: int = signal.SIGTERM
    is_cascade: bool = False


class RetryRequest(JobRequest, frozen=True, kw_only=True):
    """RETRY a job; with `is_cascade` also the jobs that were skipped because of it."""

    is_cascade: bool = False


class SetRequest(JobRequest, frozen=True, kw_only=True):
    """SET fields of a job's Spec. `values` has both `delay` and `at` if it has either.

    A `command` replaces the job's command or script; with a `script` in `values` it is the arguments of that.
    """

    values: dict[str, Any]
    command: str | None = None

    @property
    def changes_execution(self) -> bool:
        """Whether it changes what the job executes, not only when and within which limits."""
        return self.command is not None or "script" in self.values

    def new_command(self, command: str) -> str:
        """Return the changed command of the job, without any change `command`."""
        return self.command or "" if self.changes_execution else command


class ManyRequest(EmptyRequest, frozen=True, kw_only=True):
    """An act without options on all jobs that `wanted` admits; the base class of the others.

    With `has_progress` the client is informed of the progress.
    """

    wanted: JobFilter
    has_progress: bool = False


class CancelManyRequest(ManyRequest, frozen=True, kw_only=True):
    """CANCEL many jobs with a signal."""

    signal: int = signal.SIGTERM


class SetManyRequest(ManyRequest, frozen=True, kw_only=True):
    """SET fields of the Specs of many jobs; for `values` see SetRequest."""

    values: dict[str, Any]


def _parse_subject(usage: str, words: list[str], values: dict[str, Any]) -> JobRef | JobFilter:
    """Return the job that a request names, or the filter that it has instead, whose values are removed."""
    wanted = pop_filter(values)
    has_filters = wanted != JobFilter()
    if "has_progress" in values and not has_filters:
        raise BadRequest("--progress is for acts with filters; a request for one job needs none")
    if has_filters and words:
        raise BadRequest("an id and filters cannot be given together; give one of them")
    if has_filters:
        return wanted
    if not words:
        raise BadRequest(f"expected {usage}")
    return parse_job_ref(words[0])


def parse_act(usage: str, text: str) -> JobRequest | ManyRequest:
    """Parse HOLD, RELEASE, SUSPEND, CONTINUE or REMOVE."""
    if text.isascii() and text.isdigit():  # the common case: a number alone
        return JobRequest(job=parse_job_id(text))
    words, values = parse_arguments(usage, text, 0, 1, _MANY_OPTIONS)
    subject = _parse_subject(usage, words, values)
    if isinstance(subject, JobFilter):
        return ManyRequest(wanted=subject, **values)
    return JobRequest(job=subject)


_PROGRESS: Table = {"progress": OptionType("has_progress", parse_flag)}
_MANY_OPTIONS: Table = {**FILTER_OPTIONS, **_PROGRESS}
_CASCADE: Table = {"cascade": OptionType("is_cascade", parse_flag)}
_CANCEL_OPTIONS: Table = {"signal": OptionType("signal", parse_signal), **_CASCADE, **_MANY_OPTIONS}
_RETRY_OPTIONS: Table = {**_CASCADE, **_MANY_OPTIONS}


def parse_cancel(usage: str, text: str) -> CancelRequest | CancelManyRequest:
    """Parse CANCEL."""
    words, values = parse_arguments(usage, text, 0, 1, _CANCEL_OPTIONS)
    subject = _parse_subject(usage, words, values)
    if isinstance(subject, JobFilter):
        _check_no_cascade(values)
        return CancelManyRequest(wanted=subject, **values)
    return CancelRequest(job=subject, **values)


def parse_retry(usage: str, text: str) -> RetryRequest | ManyRequest:
    """Parse RETRY."""
    words, values = parse_arguments(usage, text, 0, 1, _RETRY_OPTIONS)
    subject = _parse_subject(usage, words, values)
    if isinstance(subject, JobFilter):
        _check_no_cascade(values)
        return ManyRequest(wanted=subject, **values)
    return RetryRequest(job=subject, **values)


def _check_no_cascade(values: dict[str, Any]) -> None:
    if "is_cascade" in values:
        raise BadRequest("--cascade is for one job and cannot be given with filters; name the job by its id")


SET_FILTER_OPTIONS: Table = {
    {"queue": "in-queue", "label": "with-label"}.get(name, name): OptionType(
        f"of_{option.field}", option.parse, option.usage
    )
    for name, option in FILTER_OPTIONS.items()
}
"""The options of SET that select jobs; `--queue` and `--label` are values to set."""
_SET_FILTERS = " ".join(f"--{name}" for name in SET_FILTER_OPTIONS)


def _parse_command(text: str) -> str:
    if "\r" in text or "\n" in text:
        raise BadRequest("expected a command without line breaks; send it as a --script")
    return text.lstrip(" \t")


_EXECUTION: Table = {
    "command": OptionType("command", _parse_command, "<quoted>"),
    "script": SUBMIT_OPTIONS["script"],
}
SET_TABLE: Table = {**SET_OPTIONS, **_EXECUTION, **SET_FILTER_OPTIONS, **_PROGRESS}
"""All options of SET."""


def parse_set(usage: str, text: str) -> SetRequest | SetManyRequest:
    """Parse SET."""
    words, given = parse_arguments(usage, text, 0, 1, SET_TABLE)
    filters = {name.removeprefix("of_"): given.pop(name) for name in list(given) if name.startswith("of_")}
    progress = {name: given.pop(name) for name in ("has_progress",) if name in given}
    subject = _parse_subject(f"{usage}, with the filters {_SET_FILTERS}", words, filters | progress)
    values = _resolve_set(given)
    check_blocks(values)
    if isinstance(subject, JobFilter):
        for name in values.keys() & _EXECUTION.keys():
            raise BadRequest(f"--{name} changes one job and cannot be given with filters; name it by its id")
        return SetManyRequest(wanted=subject, values=values, **progress)
    command = values.pop("command", None)
    if command is not None and not command.strip(" \t") and "script" not in values:
        raise BadRequest("--command: expected a command, not an empty one; CANCEL ends the job")
    return SetRequest(job=subject, values=values, command=command)


def sizes_of_set_blocks(text: str) -> tuple[int, ...]:
    """Return the size of the script that follows a SET line, if any; `text` is the text after the verb.

    Raises as `submit.block_sizes` does.
    """
    return sizes_of_blocks(text, lambda text: split_words(text).options, ("script",))


def _resolve_set(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values to set, with both `delay` and `at` if one of them is given."""
    if not values:
        raise BadRequest("expected at least one option to change, such as --priority=5; HELP SET lists them")
    resolve_time(values)
    if values.get("delay") is not None and values.get("at") is not None:
        raise BadRequest("--delay counts from now and --at is a time; give one of them")
    if "delay" in values or "at" in values:
        return {"delay": None, "at": None, **values}
    return values
