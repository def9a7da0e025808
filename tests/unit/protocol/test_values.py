"""The values of docs/protocol.md §2: valid and invalid texts of each."""

from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import BadRequest
from taskqd.protocol import values
from taskqd.protocol.values import timestamp

QUOTED = [
    (b"", '""'),
    (b"hello world", '"hello world"'),
    (b" !#$%&'()*+,-./09:;<=>?@AZ[]^_`az{|}~", '''" !#$%&'()*+,-./09:;<=>?@AZ[]^_`az{|}~"'''),
    (b'say "hi"', r'"say \"hi\""'),
    (b"C:\\dir", r'"C:\\dir"'),
    (b"a\nb\r\n\tc", r'"a\nb\r\n\tc"'),
    (b"\\n", r'"\\n"'),
    (b"\x00\x01\x1f\x7f\x80\xff", r'"\x00\x01\x1F\x7F\x80\xFF"'),
    ("Grüße".encode(), r'"Gr\xC3\xBC\xC3\x9Fe"'),
    (b'\x00\\"\n', r'"\x00\\\"\n"'),
]
ONLY_READ = [
    (rb'"\x41\x62"', b"Ab"),
    (rb'"\xff\xFf\xfF"', b"\xff\xff\xff"),
    (rb'"\x0A\x22\x5c"', b'\n"\\'),
    (rb'"\x411"', b"A1"),
    ('"pärl \u20ac \U0001f600"'.encode(), "pärl \u20ac \U0001f600".encode()),
    (r'"é\xC3\xA9\n"'.encode(), "éé\n".encode()),
]
UNQUOTABLE = [
    "",
    "a",
    "'a'",
    '"',
    '"a',
    '"a\\"',
    '"\\',
    '"\\"',
    r'"\a"',
    r'"\0"',
    r'"\N"',
    r'"\X41"',
    r'"\x"',
    r'"\x4"',
    r'"\x4g"',
    r'"\x 1"',
    r'"\x+1"',
    r'"\u0041"',
    '"\\x\u0664\u0661"',
    '"\x85"',
    '"\udcff"',
    '"\0"',
    '"\n"',
    '"\t"',
    '"\x7f"',
    ' "a"',
]


@pytest.mark.parametrize("data, text", QUOTED)
def test_quote_and_parse_quoted_are_inverse(data: bytes, text: str) -> None:
    assert values.quote(data) == text
    assert values.quoted(data) == text.encode()
    assert values.escaped(data) == text[1:-1].encode()
    assert values.parse_quoted(text, 0) == (data, len(text))


@pytest.mark.parametrize("text, data", ONLY_READ)
def test_parse_quoted_takes_hex_escapes(text: bytes, data: bytes) -> None:
    assert values.parse_quoted(text.decode(), 0)[0] == data


@pytest.mark.parametrize("text", UNQUOTABLE)
def test_parse_quoted_refuses_other_text(text: str) -> None:
    with pytest.raises(BadRequest):
        values.parse_quoted(text, 0)


@given(st.binary())
def test_parse_quoted_returns_any_quoted_bytes(data: bytes) -> None:
    text = values.quote(data)
    assert values.parse_quoted(text, 0) == (data, len(text))
    assert all(" " <= letter <= "~" for letter in text)


@given(st.binary(), st.binary())
def test_escaped_pieces_join_to_the_escaped_whole(one: bytes, other: bytes) -> None:
    assert values.escaped(one) + values.escaped(other) == values.escaped(one + other)


@given(st.text(st.sampled_from('"\\xnrt4Fa é\n\udc80')))
def test_parse_quoted_of_any_text_returns_or_refuses(text: str) -> None:
    try:
        data, _ = values.parse_quoted('"' + text, 0)
    except BadRequest:
        return
    assert values.parse_quoted(values.quote(data), 0)[0] == data


@given(st.binary(max_size=20), st.text(max_size=10), st.text(max_size=10))
def test_parse_quoted_parses_within_a_text(data: bytes, before: str, after: str) -> None:
    word = values.quote(data)
    assert values.parse_quoted(before + word + after, len(before)) == (data, len(before + word))


DURATIONS = [
    ("0", 0.0),
    ("1", 1.0),
    ("1.5", 1.5),
    ("007", 7.0),
    ("0.000000001", 1e-9),
    ("500ms", 0.5),
    ("10s", 10.0),
    ("10m", 600.0),
    ("2h", 7200.0),
    ("1.5d", 129600.0),
    ("36525d", values.MAX_DURATION),
    ("3155760000", values.MAX_DURATION),
]
SIZES = [
    ("0", 0),
    ("4096", 4096),
    ("0010", 10),
    ("1k", 1024),
    ("64M", 64 * 1024**2),
    ("2G", 2 * 1024**3),
    ("999999999999999", 10**15 - 1),
    ("8589934591G", (2**33 - 1) * 2**30),
]
TIMES = [
    ("1970-01-01T00:00:00Z", 0.0),
    ("2026-11-24T07:00:00Z", 1795503600.0),
    ("2026-11-24t07:00:00z", 1795503600.0),
    ("2026-11-24T08:00:00+01:00", 1795503600.0),
    ("2026-11-24T01:30:00-05:30", 1795503600.0),
    ("2026-11-24T07:00:00-00:00", 1795503600.0),
    ("2026-11-24T07:00:00.25Z", 1795503600.25),
    ("2026-11-24T07:00:00.000000001Z", 1795503600.0),
    ("2024-02-29T00:00:00Z", 1709164800.0),
    ("2016-12-31T23:59:60Z", 1483228800.0),
    ("2016-12-31T23:59:60.5Z", 1483228800.5),
    ("9998-12-31T23:59:59Z", values.END_OF_TIMES - 1),
]
NOT_TIMES = [
    *("", "now", "2026-11-24", "07:00", "2026-11-24T07:00:00", "2026-11-24 07:00:00Z", "2026-11-24T07:00Z"),
    *("2026-11-24T24:00:00Z", "2026-11-24T07:60:00Z", "2026-11-24T07:00:61Z", "2026-11-24T07:00:00.Z"),
    *("2026-02-29T07:00:00Z", "2026-13-01T07:00:00Z", "2026-00-01T07:00:00Z", "2026-11-31T07:00:00Z"),
    *("2026-11-24T07:00:00+24:00", "2026-11-24T07:00:00+01:60", "2026-11-24T07:00:00+0100"),
    *("2026-11-24T07:00:00+01", "2026-11-24T07:00:00Z ", " 2026-11-24T07:00:00Z", "20261124T070000Z"),
    *("2026-11-24T07:00:00,5Z", "2026-W48-2T07:00:00Z", "0000-01-01T00:00:00Z", "1969-12-31T23:59:59Z"),
    *("1970-01-01T00:30:00+01:00", "9999-01-01T00:00:00Z", "9998-12-31T23:59:60Z", "12026-11-24T07:00:00Z"),
    *("2026-11-24T07:00:00Z\n", "\u0662026-11-24T07:00:00Z", "0001-01-01T00:00:00+23:59", "1795503600"),
]
INTEGERS = [
    ("0", 0),
    ("5", 5),
    ("-5", -5),
    ("-0", 0),
    ("0000000000000000005", None),
    ("10", 10),
    ("-10", -10),
]
MASKS = [("0", 0), ("22", 0o22), ("022", 0o22), ("077", 0o77), ("777", 0o777), ("0777", 0o777)]
NAMES = ["a", "default", "A-Z.a_z+0/9:@x", "-", "...", "a" * 200]

LONE = ["\ud800", "\udbff", "\udc80", "\udfff"]
NOT_NUMBERS = [
    *("", " ", "-", "+1", "1_0", "1e3", "0x10", "inf", "nan", "1 ", " 1", "1\n", "\u0661", "²", "1\0"),
    *("\uff19", "\u0967", "1,5", "--1", "one", "\udc80", "9" * 19, "9" * 5000),
]


def _refuses(parse: Any, text: str) -> str:
    with pytest.raises(BadRequest) as refusal:
        parse(text)
    assert len(str(refusal.value)) < 200
    return str(refusal.value)


@pytest.mark.parametrize("text, seconds", DURATIONS)
def test_parse_duration_takes_number_with_optional_unit(text: str, seconds: float) -> None:
    assert values.parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text", [*NOT_NUMBERS, ".5", "5.", "-1", "1S", "1 s", "1w", "1ms1", "36526d", "3155760000.1"]
)
def test_parse_duration_refuses_other_text(text: str) -> None:
    assert "expected a duration" in _refuses(values.parse_duration, text)


@pytest.mark.parametrize("text, seconds", TIMES)
def test_parse_time_takes_date_time_and_offset(text: str, seconds: float) -> None:
    assert values.parse_time(text) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("text", NOT_TIMES)
def test_parse_time_refuses_other_text(text: str) -> None:
    assert "expected a time such as" in _refuses(values.parse_time, text)


@given(st.floats(0, values.END_OF_TIMES - 1))
def test_parse_time_returns_what_timestamp_formatted(seconds: float) -> None:
    text = timestamp(seconds)
    assert text is not None
    assert values.parse_time(text) == pytest.approx(seconds, abs=0.0006)  # a float is not more exact


@pytest.mark.parametrize("text, size", SIZES)
def test_parse_size_takes_number_with_optional_unit(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize("text", [*NOT_NUMBERS, "-1", "1.5k", "1K", "1m", "1g", "1T", "1kB", "8589934592G"])
def test_parse_size_refuses_other_text(text: str) -> None:
    assert "expected a size" in _refuses(values.parse_size, text)


@pytest.mark.parametrize("text, number", INTEGERS)
def test_parse_integer_takes_numbers_within_bounds(text: str, number: int | None) -> None:
    if number is None:
        _refuses(lambda text: values.parse_integer(text, -10, 10), text)
    else:
        assert values.parse_integer(text, -10, 10) == number


@pytest.mark.parametrize("text", [*NOT_NUMBERS, "11", "-11", "1.0"])
def test_parse_integer_names_bounds_in_its_error(text: str) -> None:
    refusal = _refuses(lambda text: values.parse_integer(text, -10, 10), text)
    assert "expected a whole number from -10 to 10" in refusal


@pytest.mark.parametrize("text, mask", MASKS)
def test_parse_octal_takes_masks(text: str, mask: int) -> None:
    assert values.parse_octal(text) == mask


@pytest.mark.parametrize("text", [*NOT_NUMBERS, "8", "0o22", "1000", "00777", "-22"])
def test_parse_octal_refuses_other_text(text: str) -> None:
    assert "expected an octal mask" in _refuses(values.parse_octal, text)


@pytest.mark.parametrize("text", NAMES)
def test_parse_name_returns_the_name(text: str) -> None:
    assert values.is_name(text)
    assert values.parse_name(text) == text


@pytest.mark.parametrize(
    "text", ["", " ", "a b", "a\n", "é", "a,b", 'a"', "a\\b", "a=b", "\0", "\udc80", "a" * 201]
)
def test_parse_name_refuses_other_text(text: str) -> None:
    assert not values.is_name(text)
    assert "expected a name" in _refuses(values.parse_name, text)


@pytest.mark.parametrize(
    "text, capitals",
    [("status", "STATUS"), ("StAtUs-9", "STATUS-9"), ("", ""), ("\u017ftatus", "\u017ftatus"), ("ß", "ß")],
)
def test_capitals_changes_only_ascii(text: str, capitals: str) -> None:
    assert values.capitals(text) == capitals


@pytest.mark.parametrize(
    "text, is_utf8",
    [
        ("", True),
        ("a\0", True),
        ("é", True),
        ("\ud7ff\ue000\U0010ffff", True),
        *((f"é{odd}", False) for odd in LONE),
    ],
)
def test_is_utf8_is_false_for_lone_surrogates(text: str, is_utf8: bool) -> None:
    assert values.is_utf8(text) == is_utf8


@given(st.binary())
def test_is_utf8_tells_whether_bytes_were_utf8(data: bytes) -> None:
    assert values.is_utf8(data.decode("utf-8", "surrogateescape")) == (
        data.decode("utf-8", "ignore").encode() == data
    )


@given(st.text())
def test_parse_functions_raise_only_bad_request(text: str) -> None:
    readers = (
        values.parse_duration,
        values.parse_time,
        values.parse_size,
        values.parse_octal,
        values.parse_name,
    )
    for parse in readers:
        with suppress(BadRequest):
            parse(text)


# Timestamps.

TIMESTAMPS = [
    (0.0, "1970-01-01T00:00:00.000Z"),
    (1764000000.0, "2025-11-24T16:00:00.000Z"),
    (1764000000.001, "2025-11-24T16:00:00.001Z"),
    (1764000000.9994, "2025-11-24T16:00:00.999Z"),
    (1764000000.9996, "2025-11-24T16:00:01.000Z"),
    (1e-9, "1970-01-01T00:00:00.000Z"),
    (4919673600.5, "2125-11-24T16:00:00.500Z"),
]


@pytest.mark.parametrize("seconds, text", TIMESTAMPS)
def test_timestamp_is_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text
    assert datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() == pytest.approx(seconds, abs=0.0006)


def test_timestamp_of_none_is_none() -> None:
    assert timestamp(None) is None


@given(st.floats(0, 5e9))
def test_timestamp_is_rounded_to_milliseconds(seconds: float) -> None:
    text = timestamp(seconds)
    assert text is not None
    read = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
    assert read.tzinfo == timezone.utc
    assert abs(read.timestamp() - seconds) <= 0.00051
