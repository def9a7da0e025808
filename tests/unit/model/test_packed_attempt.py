"""The usual attempts of ended jobs are stored as bytes, without loss."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.model.attempt import Attempt, Reason, Usage
from taskqd.model.packed_attempt import ended_at, pack, relocated, started_at, times, unpack

TIMES = st.floats(0, 4e9)
SECONDS = st.floats(0, 1e7)


def usual(**known: Any) -> Attempt:
    values: dict[str, Any] = {
        "number": 1,
        "started_at": 1764000000.125,
        "ended_at": 1764000001.0000002,
        "exit_code": 0,
        "usage": Usage(0.0006259999999999999, 0.25, 1024 * 1712),
        "stdout_bytes": 12,
        "record": (-3, 2**34, 345),
    }
    return Attempt(**{**values, **known})


def test_packed_attempt_takes_96_bytes() -> None:
    packed = pack(usual())
    assert packed is not None
    assert packed.__sizeof__() <= 96


@given(
    st.builds(
        usual,
        started_at=TIMES,
        ended_at=TIMES,
        pid=st.none() | st.integers(1, 2**22),
        exit_code=st.integers(0, 255),
        reason=st.sampled_from([None, Reason.EXIT]),
        progress=st.integers(0, 100),
        usage=st.builds(Usage, SECONDS, SECONDS, st.integers(0, 2**30).map(lambda size: size * 1024)),
        stdout_bytes=st.integers(0, 4096),
        stderr_bytes=st.integers(0, 4096),
        record=st.none()
        | st.tuples(st.integers(-(10**8), 10**8), st.integers(0, 2**40), st.integers(1, 2**31)),
    )
)
def test_usual_attempt_is_the_same_after_packing(attempt: Attempt) -> None:
    packed = pack(attempt)
    assert packed is not None
    assert unpack(packed) == attempt
    assert (started_at(packed), ended_at(packed)) == (attempt.started_at, attempt.ended_at)
    assert times([packed]) == [(attempt.started_at, attempt.ended_at)]


@pytest.mark.parametrize(
    "unusual",
    [
        {"number": 2},
        {"ended_at": None},
        {"usage": None},
        {"usage": Usage(0.0, 0.0, 1000)},
        {"usage": Usage(0.0, 0.0, 2**43)},
        {"usage": Usage(0.0, 0.0, 1024, memory_used_peak=1)},
        {"exit_code": None},
        {"exit_code": 256},
        {"reason": Reason.TIMEOUT},
        {"signal": 9},
        {"detail": "killed"},
        {"stdout_inline": False},
        {"stderr_inline": False},
        {"stdout_dropped": 1},
        {"stderr_dropped": 1},
        {"stdout_bytes": 2**16},
    ],
)
def test_unusual_attempt_is_not_packed(unusual: dict[str, Any]) -> None:
    assert pack(usual(**unusual)) is None


@pytest.mark.parametrize(
    "record, upto, expected",
    [
        ((3, 10, 20), 3, (-3, 7, 9)),
        ((3, 10, 20), 2, (3, 10, 20)),
        ((-2, 10, 20), 3, (-3, 7, 9)),
        (None, 3, None),
    ],
)
def test_packed_attempt_gets_a_new_position_if_the_old_one_was_replaced(
    record: tuple[int, int, int] | None, upto: int, expected: tuple[int, int, int] | None
) -> None:
    packed = pack(usual(record=record))
    assert packed is not None
    assert unpack(relocated(packed, upto, (-3, 7, 9))) == usual(record=expected)
