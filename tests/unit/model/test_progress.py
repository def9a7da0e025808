"""The reports of running jobs: percentages and the text behind them."""

import pytest

from taskqd.model.progress import MAX_TEXT, TAIL_BYTES, Progress, parse_reports


@pytest.mark.parametrize(
    "tail, progress",
    [
        (b"", Progress()),
        (b"40", Progress()),
        (b"40\n", Progress(40)),
        (b"40 %\n", Progress(40)),
        (b"40 epoch 5 of 100\n", Progress(40, "epoch 5 of 100")),
        (b"40%\tepoch 5\r\n", Progress(40, "epoch 5")),
        (b"40.5 % half\n", Progress(40, "half")),
        (b"5 0\n", Progress(5, "0")),
        (b"250 beyond\n", Progress(100, "beyond")),
        (b"no number\n", Progress()),
        (b"40x\n", Progress()),
        (b"20 a\n40 b\n", Progress(40, "b")),
        (b"20 a\n40 b", Progress(20, "a")),
        (b"40 a\n40\n", Progress(40, "a")),
        (b"40 a\n41\n", Progress(41)),
        (b"40 a\n40\n40\n", Progress(40)),
        (b"40 a\n\n", Progress(40, "a")),
        (b"0 begun\n0\n", Progress(0, "begun")),
        ("40 Grüße \u202e\x1b[31m\x07\x85x\n".encode(), Progress(40, "Grüße   [31m  x")),
        (b"40 \xff\xfe\n", Progress(40, "\ufffd\ufffd")),
        (b"40 " + b"x" * 500 + b"\n", Progress(40, "x" * MAX_TEXT)),
    ],
)
def test_progress_is_the_last_percentage_with_its_text(tail: bytes, progress: Progress) -> None:
    assert parse_reports(tail) == progress


def test_two_lines_of_the_longest_text_fit_in_the_tail() -> None:
    text = "\U0001f600" * MAX_TEXT
    reports = f"100 {text}\n100\n".encode()
    assert parse_reports((b"x" * 9000 + b"\n" + reports)[-TAIL_BYTES:]) == Progress(100, text)
