"""Jobs, attempts, schedules and events as JSON documents (docs/protocol.md §4).

Times are strings in RFC 3339, durations seconds, sizes bytes.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from taskqd.model.events import Changed, Event, ScheduleContent, Started, Submitted
from taskqd.model.job import Attempt, Job, Reason, Status
from taskqd.model.output_files import output_files
from taskqd.model.retry import signal_name
from taskqd.model.schedule import Schedule
from taskqd.model.spec import Spec
from taskqd.model.units import unpack_units
from taskqd.protocol.submit import SUBMIT_OPTIONS
from taskqd.protocol.values import timestamp

_SHOWN_FIELDS = tuple(option.field for option in SUBMIT_OPTIONS.values() if option.is_shown)
"""The fields of Spec that a document contains unchanged, if they differ from their defaults."""


def describe_event(event: Event) -> dict[str, Any]:
    """Return an event as a JSON document: of output only the sizes, and nothing for runners and files."""
    document: dict[str, Any] = msgspec.to_builtins(event)
    for name in ("at", "retry_at", "ended_at"):
        if name in document:
            document[name] = timestamp(document[name])
    if isinstance(event, Started):
        document.pop("word", None)
        document.pop("runner", None)
    if isinstance(event, ScheduleContent):
        document.pop("version", None)
    if isinstance(event, Submitted | Changed | ScheduleContent):
        document["spec"] = _pop_spec(document)
    document.pop("order", None)
    for name in ("stdout", "stderr"):
        if name in document:
            output = document[name]
            document[name] = {key: output[key] for key in ("size", "dropped") if key in output}
    return document


def _pop_spec(document: dict[str, Any]) -> dict[str, Any]:
    """Remove the command from an event and return its spec, with the command first."""
    command, spec = document.pop("command", None), document.get("spec", {})
    spec.pop("script_file", None)
    if "at" in spec:
        spec["at"] = timestamp(spec["at"])
    if "named" in spec:
        spec |= _without_counts(spec.pop("named"))
    return spec if command is None else {"command": command, **spec}


def describe(job: Job, progress: int, reason: Reason | None) -> dict[str, Any]:
    """Return a job as a JSON document.

    `progress` is in percent, `reason` is why the job has its status now. The sizes are those of the latest
    attempt, 0 while it runs. Fields without a value are None; those of arrays and schedules are present only
    for their jobs.
    """
    attempt = job.attempt
    return {
        "id": job.id,
        **_relations(job),
        "command": job.command or None,
        "status": job.status.value,
        "reason": reason.value if reason else None,
        **_cancelling(job),
        **_suspended(job),
        "progress": progress,
        "exit_code": job.exit_code,
        "signal": _signal(attempt) if job.status.is_final else None,
        "queue": job.spec.queue,
        "priority": job.spec.priority,
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
        "held": job.is_held,
        "cwd": _cwd(job.spec),
        "pid": attempt.pid if attempt and job.status is Status.RUNNING else None,
        "detail": attempt.detail if attempt else None,
        **_sizes(attempt),
        **_usage(_latest_ended(job)),
        **_units(attempt),
        **_options(job.spec),
    }


def describe_attempts(job: Job) -> list[dict[str, Any]]:
    """Return all attempts of a job as JSON documents, oldest first; the sizes of a running one are 0."""
    return [
        {**_describe_attempt(attempt), **_output_files(job, attempt)}
        for attempt in (*job.past, job.attempt)
        if attempt is not None
    ]


def _describe_attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "started_at": timestamp(attempt.started_at),
        "ended_at": timestamp(attempt.ended_at),
        "reason": attempt.reason.value if attempt.reason else None,
        "exit_code": attempt.exit_code if attempt.signal is None else -attempt.signal,
        "signal": _signal(attempt),
        "detail": attempt.detail,
        **_sizes(attempt),
        **_usage(attempt),
        **_units(attempt),
    }


def _output_files(job: Job, attempt: Attempt) -> dict[str, str]:
    """Return the files to which an attempt writes, in place of the daemon's."""
    files = zip(("stdout_file", "stderr_file"), output_files(job.spec, job.id, attempt.number), strict=True)
    return {name: path for name, path in files if path is not None}


def describe_schedule(
    schedule: Schedule, next_run_at: float | None, next_runs: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return a schedule as a JSON document; with ``next_runs`` if they are given."""
    spec = schedule.spec
    options = {name: getattr(spec, name) for name in ("label", "retries", "timeout", "cwd")}
    return {
        "schedule": schedule.id,
        "every": schedule.every,
        "cron": schedule.cron,
        "overlap": schedule.overlap,
        "paused": schedule.is_paused,
        "owner": schedule.owner,
        "created_at": timestamp(schedule.created_at),
        "next_run_at": timestamp(next_run_at),
        **({} if next_runs is None else {"next_runs": list(map(timestamp, next_runs))}),
        "last_run_at": timestamp(schedule.last_run_at),
        "last_job": schedule.last_job,
        "command": schedule.command or None,
        "queue": spec.queue,
        "priority": spec.priority,
        **{name: value for name, value in options.items() if value},
        **_options(spec),
        **_array_spec(spec),
    }


def _relations(job: Job) -> dict[str, Any]:
    """Return the array or the schedule of a job, or the tasks of an array."""
    relations: dict[str, Any] = {}
    if job.array is not None:
        relations = {"array": job.array, "index": job.index}
    if job.tasks is not None:
        counts = {status.value.lower(): job.tasks.counts.get(status, 0) for status in Status}
        relations = {"tasks": {"first": job.tasks.first, "count": job.tasks.count, **counts}}
        relations |= _array_spec(job.spec)
    if job.schedule is not None:
        relations["schedule"] = job.schedule
    return relations


def _cancelling(job: Job) -> dict[str, str]:
    """Return the signal by which a running job is being cancelled."""
    if job.cancelling is None or job.status is not Status.RUNNING:
        return {}
    return {"cancelling": signal_name(job.cancelling)}


def _suspended(job: Job) -> dict[str, str | None]:
    """Return when a job was suspended, if it is."""
    return {} if job.suspended_at is None else {"suspended_at": timestamp(job.suspended_at)}


def _array_spec(spec: Spec) -> dict[str, str]:
    if spec.array is None:
        return {}
    at_once = "" if spec.array.at_once is None else f"%{spec.array.at_once}"
    return {"array_spec": f"{spec.array.first}-{spec.array.last}{at_once}"}


def _sizes(attempt: Attempt | None) -> dict[str, int]:
    names = ("stdout_bytes", "stderr_bytes", "stdout_dropped", "stderr_dropped")
    return {name: getattr(attempt, name) if attempt else 0 for name in names}


def _latest_ended(job: Job) -> Attempt | None:
    if job.attempt is not None and job.attempt.ended_at is None:
        return job.past[-1] if job.past else None
    return job.attempt


def _usage(attempt: Attempt | None) -> dict[str, float | int | None]:
    usage = attempt.usage if attempt else None
    return {
        "cpu_user": round(usage.user, 6) if usage else None,
        "cpu_system": round(usage.system, 6) if usage else None,
        "memory_peak": usage.memory or None if usage else None,  # some kernels report 0
        **({"memory_used_peak": usage.memory_used_peak} if usage and usage.memory_used_peak else {}),
    }


def _units(attempt: Attempt | None) -> dict[str, Any]:
    """Return the named units of resources that an attempt has or had."""
    return {"units": unpack_units(attempt.units)} if attempt is not None and attempt.units else {}


def _cwd(spec: Spec) -> str | None:
    data = spec.cwd_base64
    return spec.cwd if data is None else data.decode("utf-8", "backslashreplace")


def _options(spec: Spec) -> dict[str, Any]:
    """Return the options that differ from their defaults and that every document has only then."""
    options: dict[str, Any] = msgspec.to_builtins(spec)
    shown = {field: options[field] for field in _SHOWN_FIELDS if field in options}
    if spec.script_line is not None:
        shown["script_line"] = spec.script_line
    if spec.named is not None:
        shown |= _without_counts(options["named"])
    if spec.secrets:
        shown["secrets"] = spec.secrets
    if spec.tz is not None:
        shown["tz"] = spec.tz
    if spec.needs:
        shown["need"] = spec.needs
    if spec.at is not None:
        shown["at"] = timestamp(spec.at)
    if "umask" in options:
        shown["umask"] = f"{spec.umask:03o}"
    if spec.env or spec.env_base64:
        data = {name: value.decode("utf-8", "backslashreplace") for name, value in spec.env_base64.items()}
        shown["env"] = {**spec.env, **data}
    return shown


def _without_counts(named: dict[str, Any]) -> dict[str, Any]:
    """Return named dependencies as the submission gave them."""
    return {name: value for name, value in named.items() if name != "given"}


def _signal(attempt: Attempt | None) -> str | None:
    return None if attempt is None or attempt.signal is None else signal_name(attempt.signal)
