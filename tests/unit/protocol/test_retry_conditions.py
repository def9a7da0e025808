"""The conditions of --retry-on and --no-retry-on: their syntax and their normal form."""

import pytest

from taskqd.errors import BadRequest
from taskqd.protocol.retry_conditions import MAX_CONDITIONS, parse_conditions


@pytest.mark.parametrize(
    "text, conditions",
    [
        ("exit", ("exit",)),
        ("EXIT:075,Signal:sigkill,TimeOut", ("exit:75", "signal:KILL", "timeout")),
        ("spawn,output,memory,interrupted", ("spawn", "output", "memory", "interrupted")),
        ("exit:1,exit:255", ("exit:1", "exit:255")),
        ("signal:int", ("signal:INT",)),
        (",".join(["exit"] * MAX_CONDITIONS), ("exit",) * MAX_CONDITIONS),
    ],
)
def test_retry_conditions_are_normalized(text: str, conditions: tuple[str, ...]) -> None:
    assert parse_conditions(text) == conditions
    assert parse_conditions(",".join(conditions)) == conditions


@pytest.mark.parametrize(
    "text, part",
    [
        ("", "expected a condition such as exit:75"),
        ("exit,", "expected a condition"),
        ("éxit", "not 'éxit'"),
        ("cancelled", "not 'cancelled'"),
        ("dependency", "expected a condition"),
        ("exit:", "expected a whole number"),
        ("exit:0", "1 to 255"),
        ("exit:256", "1 to 255"),
        ("exit:3:4", "expected a whole number"),
        ("signal:", "expected the name of a signal"),
        ("signal:9", "expected the name of a signal"),
        ("signal:_DFL", "expected the name of a signal"),
        ("timeout:5", "timeout has no details; expected timeout alone, not 'timeout:5'"),
        ("x" * 100, "not '" + "x" * 40 + "'"),
        (",".join(["exit"] * (MAX_CONDITIONS + 1)), "at most 50 conditions, not 51"),
    ],
)
def test_invalid_retry_condition_is_refused_with_what_was_expected(text: str, part: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_conditions(text)
    assert part in str(refusal.value)
