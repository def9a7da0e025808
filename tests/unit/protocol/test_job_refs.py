"""How a job is named: by its number, or a task by its array and its index; and nothing else is a name."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.errors import BadRequest, NoSuchJob
from taskqd.model.job_ref import JobRef, TaskId
from taskqd.protocol.job_refs import parse_id, parse_ref

REFS = [
    ("5", 5),
    ("0005", 5),
    ("0" * 6000 + "5", 5),
    ("999999999999999999", 999_999_999_999_999_999),
    ("5.0", TaskId(5, 0)),
    ("5.17", TaskId(5, 17)),
    ("05.017", TaskId(5, 17)),
    ("10.10", TaskId(10, 10)),
    ("5.999999999999999999", TaskId(5, 999_999_999_999_999_999)),
]
NO_REFS = [
    *("", "0", "-1", "+1", "1_0", "x", "\u0665", "\u00b2", "5x", '"5"', "000", "5,6", "1e3", "5\x0b", " 5"),
    *(
        "5.",
        ".5",
        ".",
        "0.5",
        "5.x",
        "x.5",
        "5.-1",
        "5.+1",
        "5.1.2",
        "5.\u0665",
        "\u0665.1",
        "5.\u00b2",
        "5. 1",
    ),
]
UNREACHED = [
    "1000000000000000000",
    "9" * 60000,
    "1000000000000000000.1",
    "1.1000000000000000000",
    "1." + "9" * 60000,
]


@pytest.mark.parametrize("text, ref", REFS)
def test_a_job_is_named_by_its_number_or_as_a_task_of_an_array(text: str, ref: JobRef) -> None:
    assert parse_ref(text) == ref
    assert parse_ref(str(ref)) == ref
    assert type(parse_ref(text)) is type(ref)


@pytest.mark.parametrize("text", NO_REFS)
def test_no_other_text_names_a_job(text: str) -> None:
    with pytest.raises(BadRequest, match="expected a job's id") as refusal:
        parse_ref(text)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("text", UNREACHED)
def test_there_is_no_job_of_a_number_that_none_can_have_reached(text: str) -> None:
    with pytest.raises(NoSuchJob) as refusal:
        parse_ref(text)
    assert len(str(refusal.value)) < 100


def test_where_only_a_whole_job_will_do_a_task_is_no_id() -> None:
    assert parse_id("05") == 5
    with pytest.raises(BadRequest, match="a whole number from 1"):
        parse_id("5.1")


@given(st.text() | st.text(st.sampled_from("0159.\u0665-")))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    with suppress(BadRequest, NoSuchJob):
        assert parse_ref(str(parse_ref(text))) == parse_ref(text)


def test_a_number_may_begin_with_as_many_zeros_as_fit_on_a_line() -> None:
    zeros = "0" * 60_000
    assert parse_ref(f"{zeros}7.{zeros}3") == TaskId(7, 3)
    assert parse_ref(f"7.{zeros}") == TaskId(7, 0)
