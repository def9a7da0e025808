"""Limits: defaults, ranges and names."""

from typing import Any

import pytest

from taskqd.config.limits import (
    BURST,
    CONNECTIONS_RESERVED,
    LIMITS,
    Limits,
    PendingLimit,
    describe,
    make_limits,
    max_connections,
    max_slots,
    parse_limit,
)
from taskqd.errors import BadRequest
from taskqd.protocol.option_values import MAX_LABEL_LENGTH, MAX_PRIORITY, MAX_TASKS
from taskqd.protocol.parser import MAX_LINE_LENGTH
from taskqd.protocol.submit import MAX_BLOCK_SIZE
from taskqd.server.handlers.admin import LIMITS as ALWAYS

KILO, MEGA, GIGA = 1024, 1024**2, 1024**3
MAX_CONNECTIONS, MAX_PENDING = 1_000_000, 100_000_000

# Of each limit: below the minimum, minimum, maximum, above the maximum; None if there is no such value.
RANGES: dict[str, tuple[Any, Any, Any, Any]] = {
    "connections": (0, 1, MAX_CONNECTIONS, MAX_CONNECTIONS + 1),
    "connections-per-user": (0, 1, MAX_CONNECTIONS, MAX_CONNECTIONS + 1),
    "connections-before-auth": (0, 1, MAX_CONNECTIONS, MAX_CONNECTIONS + 1),
    "connections-before-auth-per-address": (0, 1, MAX_CONNECTIONS, MAX_CONNECTIONS + 1),
    "auth-time": (0, 0.001, 36525 * 86400.0, 36525 * 86400 + 1),
    "idle-time": (0, 0.001, 36525 * 86400.0, 36525 * 86400 + 1),
    "line": (KILO - 1, KILO, MAX_LINE_LENGTH, MAX_LINE_LENGTH + 1),
    "block": (-1, 0, MAX_BLOCK_SIZE, MAX_BLOCK_SIZE + 1),
    "command": (0, 1, MAX_LINE_LENGTH, MAX_LINE_LENGTH + 1),
    "environment": (-1, 0, MAX_LINE_LENGTH, MAX_LINE_LENGTH + 1),
    "label": (0, 1, MAX_LABEL_LENGTH, MAX_LABEL_LENGTH + 1),
    "pending": (0, 1, MAX_PENDING, MAX_PENDING + 1),
    "pending-per-user": (0, 1, MAX_PENDING, MAX_PENDING + 1),
    "pending-bytes": (MEGA - 1, MEGA, 100_000 * GIGA, 100_000 * GIGA + 1),
    "pending-bytes-per-user": (MEGA - 1, MEGA, 100_000 * GIGA, 100_000 * GIGA + 1),
    "schedules-per-user": (0, 1, 1_000_000, 1_000_001),
    "slots-per-user": (0, 1, 10_000, 10_001),
    "submissions": (0.09, 0.1, 1_000_000.0, 1_000_000.1),
    "acts": (0.9, 1, 1_000_000.0, 1_000_000.1),
    "replies": (4 * KILO - 1, 4 * KILO, 16 * MEGA, 16 * MEGA + 1),
    "output": (-1, 0, 100_000 * GIGA, 100_000 * GIGA + 1),
    "block-memory": (64 * KILO - 1, 64 * KILO, 100_000 * GIGA, 100_000 * GIGA + 1),
    "priority": (-MAX_PRIORITY - 1, -MAX_PRIORITY, MAX_PRIORITY, MAX_PRIORITY + 1),
}
NEVER_NONE = {"line", "block", "command", "environment", "label", "replies"}
WRONG = [
    "",
    " ",
    "many",
    "NONE",
    "null",
    "nan",
    "inf",
    "1e3",
    "1_0",
    " 1",
    "\N{ARABIC-INDIC DIGIT FOUR}",
    "5x",
]


SWITCH = "remote-control"
"""The only limit that is neither a number nor a size nor a time."""


def test_limits_and_their_settings_have_the_same_names() -> None:
    assert [name.replace("-", "_") for name in LIMITS] == list(Limits.__struct_fields__)
    assert [*RANGES, SWITCH] == list(LIMITS)


@pytest.mark.parametrize("name", LIMITS)
def test_default_of_a_limit_is_a_valid_value(name: str) -> None:
    default = getattr(Limits(), name.replace("-", "_"))
    assert parse_limit(name, "none" if default is None else default) == default
    assert make_limits({name: default}) == Limits()


@pytest.mark.parametrize("value, parsed", [(True, True), (False, False), ("true", True), ("False", False)])
def test_switch_is_true_or_false_in_the_file_and_as_text(value: Any, parsed: bool) -> None:
    assert parse_limit(SWITCH, value) is parsed


@pytest.mark.parametrize("value", ["yes", "", "none", 1, 0, None, [True]])
def test_switch_that_is_neither_true_nor_false_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest, match="expected true or false"):
        parse_limit(SWITCH, value)


@pytest.mark.parametrize("name", RANGES)
def test_limit_is_checked_against_its_range_as_number_and_as_text(name: str) -> None:
    below, least, most, above = RANGES[name]
    for value in (least, most):
        assert parse_limit(name, value) == value
        assert parse_limit(name, str(value)) == value
    for value in (below, above, str(below), str(above)):
        with pytest.raises(BadRequest):
            parse_limit(name, value)


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [*WRONG, True, None, [1], {}, float("nan"), float("inf"), -1e300, 10**400])
def test_invalid_limit_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadRequest):
        parse_limit(name, value)


@pytest.mark.parametrize("name", RANGES)
def test_none_is_allowed_unless_memory_would_be_unlimited(name: str) -> None:
    says_none = LIMITS[name].expected.endswith(', or "none"')
    assert says_none == (name not in NEVER_NONE)
    if says_none:
        assert parse_limit(name, "none") is None
        assert getattr(make_limits({name: None}), name.replace("-", "_")) is None
    else:
        with pytest.raises(BadRequest):
            parse_limit(name, "none")


def test_sizes_and_times_have_units_and_rates_may_be_fractions() -> None:
    assert parse_limit("line", "32k") == 32 * KILO
    assert parse_limit("output", "2G") == 2 * GIGA
    assert parse_limit("idle-time", "500ms") == 0.5
    assert parse_limit("submissions", "0.5") == 0.5
    assert parse_limit("priority", "-5") == -5


def test_block_memory_must_be_at_least_one_block() -> None:
    assert make_limits({"block-memory": 16 * MEGA}) == Limits(block_memory=16 * MEGA)
    assert make_limits({"block-memory": None}) == Limits(block_memory=None)
    assert make_limits({"block-memory": MEGA, "block": MEGA}) == Limits(block_memory=MEGA, block=MEGA)
    with pytest.raises(
        BadRequest, match=r"^limit block-memory must be at least limit block, which is 16777216"
    ):
        make_limits({"block-memory": 16 * MEGA - 1})


def test_lowest_submission_rate_has_a_burst_of_one() -> None:
    assert BURST * RANGES["submissions"][1] == 1.0


def test_largest_array_is_within_the_pending_limit_of_a_user() -> None:
    assert Limits().pending_per_user == MAX_TASKS


def test_pending_limits_have_jobs_and_bytes() -> None:
    quotas = Limits(pending=5, pending_bytes=None, pending_per_user=None, pending_bytes_per_user=7)
    assert quotas.pending_limit == PendingLimit(jobs=5, bytes=None)
    assert quotas.pending_limit_per_user == PendingLimit(jobs=None, bytes=7)


def test_described_limits_keep_the_keys_of_earlier_versions() -> None:
    described = describe(Limits())
    assert set(described) == {*Limits.__struct_fields__, "max_output"} - {"output"}
    assert described["max_output"] == Limits().output
    assert not set(described) & set(ALWAYS)
    assert (described["line"], described["block"], described["label"]) == (
        MAX_LINE_LENGTH,
        MAX_BLOCK_SIZE,
        MAX_LABEL_LENGTH,
    )
    assert (
        describe(Limits(pending=None, idle_time=None)).items() >= {"pending": None, "idle_time": None}.items()
    )
    assert describe(Limits(output=5))["max_output"] == 5


@pytest.mark.parametrize(
    "most, descriptors, slots, expected",
    [
        (10_000, 65_536, 4, 10_000),
        (10_000, 1024, 4, 1024 - 20 - 64),
        (10_000, 10_085, 4, 10_000),
        (10_000, 10_083, 4, 9_999),
        (None, 1024, 100, 1024 - 500 - 64),
        (10_000, 64, 4, 1),
        (None, 0, 10_000, 1),
        (1, 1024, 1, 1),
    ],
)
def test_max_connections_leaves_descriptors_for_jobs_and_the_rest(
    most: int | None, descriptors: int, slots: int, expected: int
) -> None:
    assert max_connections(Limits(connections=most), descriptors, slots) == expected


@pytest.mark.parametrize("limit", [0, 64, 256, 1024, 65_536])
def test_max_slots_leaves_descriptors_for_connections(limit: int) -> None:
    slots = max_slots(limit)
    assert slots >= 1
    if slots > 1:
        assert max_connections(Limits(), limit, slots) >= CONNECTIONS_RESERVED
        assert max_connections(Limits(), limit, slots + 1) < CONNECTIONS_RESERVED


def test_max_slots_of_256_descriptors() -> None:
    assert max_slots(256) == (256 - 64 - 16) // 5
