"""The time zone of the process."""

import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.model.time_zones import LOCAL
from tests.unit.model.samples import AUTUMN, HOUR, SPRING, T


@pytest.mark.usefixtures("central_europe")
@given(st.integers(int(SPRING - 50 * HOUR), int(AUTUMN + 50 * HOUR)))
def test_local_time_is_that_of_the_c_library(seconds: int) -> None:
    for moment in (seconds, int(SPRING) + seconds % 7200 - 3600, int(AUTUMN) + seconds % 14400 - 7200):
        local = datetime.fromtimestamp(moment, LOCAL)
        assert local.timestamp() == moment
        assert local.timetuple()[:6] == time.localtime(moment)[:6]


def test_local_zone_has_no_name() -> None:
    now = datetime.fromtimestamp(T, LOCAL)
    assert (now.tzname(), now.dst()) == (None, None)
