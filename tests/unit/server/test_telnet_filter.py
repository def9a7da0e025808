"""The telnet filter: sequences at the start of a line, in front of the framing."""

import pytest

from taskqd.server.telnet_filter import TelnetFilter

DO_ECHO, WONT_ECHO = b"\xff\xfd\x01", b"\xff\xfc\x01"
TEN_ROWS = b"\xff\xfa\x1f\x00\x50\x00\x0a\xff\xf0"
"""The window size (NAWS) of a terminal with 10 rows, which contains a line feed."""


class Bench:
    def __init__(self, max_answers: int = 1000) -> None:
        self.answers: list[bytes] = []
        self.filter = TelnetFilter(self.answers.append, lambda: len(self.answers) >= max_answers)


@pytest.mark.parametrize(
    "data, end",
    [
        (b"PING\n", 0),
        (DO_ECHO + b"PING\n", 3),
        (TEN_ROWS + DO_ECHO + b"PING\n", len(TEN_ROWS) + 3),
        (TEN_ROWS, len(TEN_ROWS)),
        (DO_ECHO + b"\xff", 3),
        (DO_ECHO + b"\xff\xfd", 3),
        (b"\xff\xfa\x1f\x00\x0a", 0),
    ],
)
def test_filter_skips_complete_sequences(data: bytes, end: int) -> None:
    bench = Bench()
    assert bench.filter.skip(data, 0) == end
    assert bench.filter.skip(b"\n\n" + data, 2) == end + 2


def test_filter_answers_each_sequence() -> None:
    bench = Bench()
    bench.filter.skip(DO_ECHO + TEN_ROWS + DO_ECHO, 0)
    assert b"".join(bench.answers) == WONT_ECHO * 2


def test_filter_stops_while_reading_is_paused() -> None:
    bench = Bench(max_answers=2)
    assert bench.filter.skip(DO_ECHO * 5 + b"PING\n", 0) == 6


@pytest.mark.parametrize(
    "data, line_start",
    [
        (b"PING\n" + DO_ECHO + b"PING\n", 5),
        (b"PING\n\n" + DO_ECHO, 6),
        (b"PI" + DO_ECHO + b"NG\n", 20),
        (DO_ECHO + b"PING\n", 20),
        (b"PING\nPING\n\xff", 10),
    ],
)
def test_filter_finds_the_next_line_that_begins_with_a_sequence(data: bytes, line_start: int) -> None:
    assert TelnetFilter.find_next(data, 0, 20) == line_start
