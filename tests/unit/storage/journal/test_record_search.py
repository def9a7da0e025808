"""find_record: the offset of a record in a file, from its number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.storage.journal import record_search
from taskqd.storage.journal.record_search import find_record

HEADER = b'00000000 99999 {"type":"snapshot"}\n'


@pytest.fixture(autouse=True)
def _small_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_search, "PROBE_BYTES", 50)


def _file(numbers: list[int], lengths: list[int], blanks: int = 0) -> bytes:
    lines = (
        b"abcdef01 %b%d {%b}\n" % (b"+" * (number % 2), number, b"x" * size)
        for number, size in zip(numbers, lengths, strict=True)
    )
    return HEADER + b"".join(lines) + b"\n" * blanks


def _found(content: bytes, number: int) -> int:
    reads = 0

    def read(length: int, offset: int) -> bytes:
        nonlocal reads
        reads += 1
        return content[offset : offset + length]

    found = find_record(read, len(content), number)
    assert reads < 200
    return found


@given(
    lines=st.lists(st.tuples(st.integers(1, 300), st.sampled_from([0, 1, 30, 49, 50, 51, 400])), max_size=60),
    number=st.integers(0, 301),
    blanks=st.sampled_from([0, 1, 500]),
)
def test_offset_is_that_of_the_first_record_with_the_number_or_a_higher_one(
    lines: list[tuple[int, int]], number: int, blanks: int
) -> None:
    numbers = sorted({each for each, _ in lines})
    lengths = [size for _, size in lines][: len(numbers)]
    content = _file(numbers, lengths, blanks)
    below = sum(1 for each in numbers if each < number)
    expected = len(_file(numbers[:below], lengths[:below]))
    assert _found(content, number) == expected


def test_half_a_line_at_the_end_counts_as_higher() -> None:
    content = _file([1, 2], [40, 40])
    for rest in (b"abcdef01 3", b"abcdef01", b"\0\0\0\0"):
        assert _found(content + rest, 4) == len(content)


def test_file_of_one_line_has_no_record() -> None:
    assert _found(HEADER, 1) == len(HEADER)
    assert _found(b"half a line", 1) == len(b"half a line")
