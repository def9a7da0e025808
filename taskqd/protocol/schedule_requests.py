"""SCHEDULE: its options, and the parser of its arguments (docs/protocol.md §3)."""

from collections.abc import Mapping

from taskqd.errors import BadRequest
from taskqd.model.submission import RescheduleRequest, RunNowRequest, ScheduleRequest
from taskqd.protocol.arguments import Option, OptionType, parse_options, parse_switch, split_options
from taskqd.protocol.option_values import integer
from taskqd.protocol.submit import (
    SUBMIT_OPTIONS,
    TIMING_OPTIONS,
    check_blocks,
    make_spec,
    separate_bytes,
)

MAX_SCHEDULE_NUMBER = 999_999_999_999_999_999
"""The highest number of a schedule that a request may name: 18 digits, as those of jobs have."""

SCHEDULE_OPTIONS: Mapping[str, OptionType] = {
    **TIMING_OPTIONS,
    **{name: option for name, option in SUBMIT_OPTIONS.items() if option.not_scheduled is None},
}
"""The options of SCHEDULE for a new schedule, by name."""

_RUN_NOW = "run-now"
_SET = "set"
_NUMBER = OptionType("schedule", integer(1, MAX_SCHEDULE_NUMBER), "<n>")

_RESCHEDULE_OPTIONS: Mapping[str, OptionType] = {
    _SET: _NUMBER,
    **TIMING_OPTIONS,
    "overlap": OptionType("overlap", parse_switch),
    **{name: SUBMIT_OPTIONS[name].for_set() for name in SCHEDULE_OPTIONS if name in SUBMIT_OPTIONS},
}
"""The options of SCHEDULE --set, by name."""

ALL_SCHEDULE_OPTIONS: Mapping[str, OptionType] = {
    **SCHEDULE_OPTIONS,
    _RUN_NOW: _NUMBER,
    _SET: _NUMBER,
}
"""All options of SCHEDULE, by name."""


def parse_schedule(text: str) -> ScheduleRequest | RunNowRequest | RescheduleRequest:
    """Parse the text after SCHEDULE.

    Of secrets, the request has only the names. Raises BadRequest, and TooLarge for a block that is skipped
    but not accepted.
    """
    options, command = split_options(text)
    if any(name == _RUN_NOW for name, _ in options):
        if command.strip(" \t") or len(options) > 1:
            raise BadRequest(f"--{_RUN_NOW} is given alone: the schedule has the command and the options")
        return RunNowRequest(**parse_options("SCHEDULE", options, ALL_SCHEDULE_OPTIONS))
    for name, _ in options:
        option = SUBMIT_OPTIONS.get(name)
        if option is not None and option.not_scheduled is not None:
            raise BadRequest(f"--{name} is not an option of SCHEDULE: {option.not_scheduled}")
    if any(name == _SET for name, _ in options):
        return _parse_reschedule(options, command)
    values = parse_options("SCHEDULE", options, SCHEDULE_OPTIONS)
    fields = [option.field for option in TIMING_OPTIONS.values()]
    timing = {field: values.pop(field) for field in fields if field in values}
    if ("every" in timing) == ("cron" in timing):
        raise BadRequest(
            'expected either --every=<duration> or --cron="<minute> <hour> <day> <month> <weekday>"'
        )
    check_blocks(values)
    if not command.strip(" \t"):
        if "script" not in values:
            raise BadRequest(
                "expected SCHEDULE --every=|--cron= [options] <command>, but the command is missing"
            )
        command = ""
    return ScheduleRequest(command=command, spec=make_spec(values), **timing)


def _parse_reschedule(options: list[Option], command: str) -> RescheduleRequest:
    values = parse_options("SCHEDULE --set", options, _RESCHEDULE_OPTIONS)
    top = {name: values.pop(name) for name in RescheduleRequest.__struct_fields__ if name in values}
    if "every" in top and "cron" in top:
        raise BadRequest("--every and --cron cannot be given together; give one of them")
    if command.strip(" \t"):
        top["command"] = command
    check_blocks(values)
    separate_bytes(values)
    if len(top) == 1 and not values:
        raise BadRequest("expected what to change: options of SCHEDULE, or the new command")
    return RescheduleRequest(values=values, **top)
