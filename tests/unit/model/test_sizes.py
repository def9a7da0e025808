"""Sizes as text for people."""

import pytest

from taskqd.model.sizes import format_size

MIB, GIB = 1024**2, 1024**3


@pytest.mark.parametrize(
    "size, text",
    [
        (0, "0 bytes"),
        (1000, "1000 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1000 * MIB, "1000 MiB"),
        (1023 * MIB + 900_000, "1 GiB"),
        (2 * GIB, "2 GiB"),
        (2 * GIB + 100 * MIB, "2.1 GiB"),
        (5000 * 1024 * GIB, "5000 TiB"),
    ],
)
def test_size_has_three_digits_and_a_unit(size: int, text: str) -> None:
    assert format_size(size) == text
