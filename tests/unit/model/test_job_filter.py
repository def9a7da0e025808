"""JobFilter: the jobs that it admits, and those that have its text."""

from typing import Any

import pytest

from taskqd.model.job import Job, Status
from taskqd.model.job_filter import JobFilter
from taskqd.model.spec import Spec

SPEC = Spec(queue="q", label="Straße", key="k")
JOB = Job(id=1, owner="ann", submitted_at=0.0, command="Make site", spec=SPEC)

ADMITTED: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"statuses": frozenset({Status.PENDING, Status.FAILED})}, True),
    ({"statuses": frozenset({Status.FAILED})}, False),
    ({"statuses": frozenset()}, False),
    ({"queue": "q"}, True),
    ({"queue": "Q"}, False),
    ({"owner": "ann"}, True),
    ({"owner": "bob"}, False),
    ({"label": "Straße"}, True),
    ({"label": "Str"}, False),
    ({"key": "k"}, True),
    ({"key": "l"}, False),
    ({"queue": "q", "owner": "ann", "label": "Straße", "key": "k"}, True),
    ({"queue": "q", "owner": "ann", "label": "x"}, False),
    ({"match": "not there"}, True),
]


@pytest.mark.parametrize("fields, is_admitted", ADMITTED)
def test_filter_admits_jobs_that_have_all_of_its_values(fields: dict[str, Any], is_admitted: bool) -> None:
    assert JobFilter(**fields).admits(JOB) is is_admitted


@pytest.mark.parametrize(
    "text, has_text",
    [
        (None, True),
        ("make", True),
        ("e si", True),
        ("strasse", True),
        ("site str", False),
        ("x", False),
    ],
)
def test_filter_finds_its_text_in_command_and_label_in_any_case(text: str | None, has_text: bool) -> None:
    assert JobFilter(match=text).has_text(JOB) is has_text


def test_filter_finds_no_text_in_a_job_without_command_and_label() -> None:
    script = Job(id=1, owner="ann", submitted_at=0.0, spec=Spec(script=9))
    assert not JobFilter(match="none").has_text(script)
