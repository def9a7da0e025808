"""Durations and sizes as people type them."""

import pytest

from taskqd.cli.typed_values import read_duration, read_size
from taskqd.errors import BadRequest


@pytest.mark.parametrize(
    "typed, sent",
    [
        ("90", "90"),
        ("1.5", "1.5"),
        ("500ms", "500ms"),
        ("10m", "10m"),
        ("1h30m", "5400"),
        ("1H 30 Min", "5400"),
        ("10min", "600"),
        ("10 minutes", "600"),
        ("2 days", "172800"),
        ("1 day, 2 hrs", "93600"),
        ("1w", "604800"),
        ("2 weeks", "1209600"),
        ("1m0.5s", "60.5"),
        ("1s250ms", "1.25"),
    ],
)
def test_duration_is_read_as_people_type_it(typed: str, sent: str) -> None:
    assert read_duration(typed) == sent


@pytest.mark.parametrize("typed", ["", "x", "1x", "1h x", "h", "1month", "-1h", "1h30", "6000w", "1,5h"])
def test_other_text_is_no_duration(typed: str) -> None:
    with pytest.raises(BadRequest, match=r"expected a duration|a duration such as"):
        read_duration(typed)


@pytest.mark.parametrize(
    "typed, sent",
    [
        ("4096", "4096"),
        ("64k", "64k"),
        ("2G", "2G"),
        ("2GB", "2147483648"),
        ("2 gb", "2147483648"),
        ("512MiB", "536870912"),
        ("512m", "536870912"),
        ("1.5G", "1610612736"),
        ("1T", "1099511627776"),
        ("100 bytes", "100"),
        ("0.5k", "512"),
    ],
)
def test_size_is_read_as_people_type_it(typed: str, sent: str) -> None:
    assert read_size(typed) == sent


@pytest.mark.parametrize("typed", ["", "G", "2X", "-1k", "2 G B", "1e3", "99999999T"])
def test_other_text_is_no_size(typed: str) -> None:
    with pytest.raises(BadRequest, match=r"expected a size|a size such as"):
        read_size(typed)
