"""Events: their names, their encoding, and the output that an Ended contains."""

from functools import reduce
from operator import or_
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqd.model.events import (
    EVENTS,
    JOB_EVENTS,
    NOTHING,
    QUEUE_EVENTS,
    RECORDS,
    Cancelled,
    Changed,
    Clocked,
    Compacted,
    CompactedEvent,
    Configured,
    Continued,
    Ended,
    Event,
    Held,
    InSnapshot,
    JobEvent,
    Opened,
    Output,
    Paused,
    QueueEvent,
    Record,
    Released,
    Removed,
    Rescaled,
    Rescheduled,
    Resized,
    Resumed,
    Retried,
    Scheduled,
    Skipped,
    Snapshot,
    Spawned,
    Started,
    Submitted,
    Suspended,
    Unscheduled,
)
from taskqd.model.job import Reason, Status, Usage
from taskqd.model.spec import Array, Spec
from taskqd.model.transitions import TRANSITIONS

SAMPLES: list[tuple[Any, str]] = [
    (
        Submitted(id=1, at=1.5, owner="ann", command="x"),
        '"submitted","id":1,"at":1.5,"owner":"ann","command":"x"',
    ),
    (Started(id=1, at=1.5, attempt=2), '"started","id":1,"at":1.5,"attempt":2'),
    (
        Started(id=1, at=1.5, attempt=2, units={"gpu": ("0", "1")}),
        '"started","id":1,"at":1.5,"attempt":2,"units":{"gpu":["0","1"]}',
    ),
    (
        Started(id=1, at=1.5, attempt=2, word="00c0ffee00c0ffee", runner="0123456789abcdef"),
        '"started","id":1,"at":1.5,"attempt":2,"word":"00c0ffee00c0ffee","runner":"0123456789abcdef"',
    ),
    (Spawned(id=1, at=1.5, pid=9), '"spawned","id":1,"at":1.5,"pid":9'),
    (Spawned(id=1, at=1.5, pid=9, started=8), '"spawned","id":1,"at":1.5,"pid":9,"started":8'),
    (
        Cancelled(id=1, at=1.5, by="taskqd", signal=0, reason=Reason.EXPIRED),
        '"cancelled","id":1,"at":1.5,"by":"taskqd","signal":0,"reason":"expired"',
    ),
    (Cancelled(id=1, at=1.5, by="ann", signal=15), '"cancelled","id":1,"at":1.5,"by":"ann","signal":15'),
    (Retried(id=1, at=1.5, by="ann"), '"retried","id":1,"at":1.5,"by":"ann"'),
    (Removed(id=1, at=1.5, by="ann"), '"removed","id":1,"at":1.5,"by":"ann"'),
    (
        Submitted(id=1, at=1.5, owner="ann", spec=Spec(array=Array(1, 9, 2), after=(3,)), schedule=4),
        (
            '"submitted","id":1,"at":1.5,"owner":"ann",'
            '"spec":{"after":[3],"array":{"first":1,"last":9,"at_once":2}},"schedule":4'
        ),
    ),
    (Skipped(id=2, at=1.5, dependency=1), '"skipped","id":2,"at":1.5,"because":1'),
    (Held(id=1, at=1.5, by="ann"), '"held","id":1,"at":1.5,"by":"ann"'),
    (Released(id=1, at=1.5, by="ann"), '"released","id":1,"at":1.5,"by":"ann"'),
    (Suspended(id=1, at=1.5, by="ann"), '"suspended","id":1,"at":1.5,"by":"ann"'),
    (Continued(id=1, at=1.5, by="ann"), '"continued","id":1,"at":1.5,"by":"ann"'),
    (
        Changed(id=1, at=1.5, by="ann", command="x", spec=Spec(needs={"gpu": 1})),
        '"changed","id":1,"at":1.5,"by":"ann","command":"x","spec":{"needs":{"gpu":1}}',
    ),
    (
        Ended(id=1, at=1.5, status=Status.COMPLETED, exit_code=0, usage=Usage(0.5, 0.25, 4096)),
        (
            '"ended","id":1,"at":1.5,"status":"COMPLETED","exit_code":0,'
            '"usage":{"user":0.5,"system":0.25,"memory":4096}'
        ),
    ),
    (
        Ended(id=1, at=1.5, status=Status.COMPLETED, exit_code=0),
        '"ended","id":1,"at":1.5,"status":"COMPLETED","exit_code":0',
    ),
    (
        Ended(
            id=1,
            at=1.5,
            status=Status.PENDING,
            reason=Reason.EXIT,
            exit_code=3,
            retry_at=9.5,
            stdout=Output.inline(b"x"),
            order="9 1 0\n",
        ),
        (
            '"ended","id":1,"at":1.5,"status":"PENDING","reason":"exit","exit_code":3,"retry_at":9.5,'
            '"stdout":{"size":1,"text":"x"},"order":"9 1 0\\n"'
        ),
    ),
]


OTHERS: list[tuple[Any, str]] = [
    (Resized(at=1.5, by="ann", queue="q", slots=2), '"resized","at":1.5,"by":"ann","queue":"q","slots":2'),
    (Resized(at=1.5, by="ann", queue="q", slots=0), '"resized","at":1.5,"by":"ann","queue":"q","slots":0'),
    (Resized(at=1.5, by="ann", queue="q"), '"resized","at":1.5,"by":"ann","queue":"q"'),
    (
        Configured(at=1.5, by="ann", queue="q", setting="fair", value=True),
        '"configured","at":1.5,"by":"ann","queue":"q","setting":"fair","value":true',
    ),
    (
        Configured(at=1.5, by="ann", queue="q", setting="rate"),
        '"configured","at":1.5,"by":"ann","queue":"q","setting":"rate"',
    ),
    (Rescaled(at=1.5, by="ann", slots=4), '"rescaled","at":1.5,"by":"ann","slots":4'),
    (Paused(at=1.5, by="ann"), '"paused","at":1.5,"by":"ann"'),
    (Paused(at=1.5, by="ann", queue="q"), '"paused","at":1.5,"by":"ann","queue":"q"'),
    (Resumed(at=1.5, by="ann", schedule=3), '"resumed","at":1.5,"by":"ann","schedule":3'),
    (
        Scheduled(at=1.5, by="ann", schedule=3, command="x", cron="@daily", overlap=True),
        '"scheduled","at":1.5,"by":"ann","schedule":3,"command":"x","cron":"@daily","overlap":true',
    ),
    (
        Scheduled(at=1.5, by="ann", schedule=3, command="x", every=60.0),
        '"scheduled","at":1.5,"by":"ann","schedule":3,"command":"x","every":60.0',
    ),
    (
        Rescheduled(at=1.5, by="ann", schedule=3, command="x", every=60.0),
        '"rescheduled","at":1.5,"by":"ann","schedule":3,"command":"x","every":60.0',
    ),
    (Unscheduled(at=1.5, by="ann", schedule=3), '"unscheduled","at":1.5,"by":"ann","schedule":3'),
]
ALL = [*SAMPLES, *OTHERS]


@pytest.mark.parametrize("event, text", ALL)
def test_event_is_encoded_without_defaults_and_decoded_again(event: Event, text: str) -> None:
    written = msgspec.json.encode(event).decode()
    assert written == f'{{"type":{text}}}'
    assert msgspec.json.decode(written, type=reduce(or_, RECORDS)) == event


@pytest.mark.parametrize("event", [event for event, _ in ALL])
def test_event_name_is_the_type_in_the_journal(event: Event) -> None:
    assert event.name == type(event).__name__.lower()
    assert msgspec.to_builtins(event)["type"] == event.name


def test_every_job_event_but_the_submission_has_a_transition() -> None:
    assert set(JOB_EVENTS) == {Submitted, *TRANSITIONS}


def test_all_events_and_the_first_records_of_files_are_records() -> None:
    assert {type(event) for event, _ in SAMPLES} == set(JOB_EVENTS)
    assert {type(event) for event, _ in OTHERS} == set(QUEUE_EVENTS)
    assert set(EVENTS) == {*JOB_EVENTS, *QUEUE_EVENTS, Clocked}
    assert set(RECORDS) == {Opened, Snapshot, Compacted, *EVENTS}


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_states_whether_a_snapshot_keeps_it(record: type[Record]) -> None:
    assert isinstance(record.in_snapshot, InSnapshot)


@pytest.mark.parametrize("event", JOB_EVENTS)
def test_every_job_event_states_whether_it_applies_to_arrays(event: type[JobEvent]) -> None:
    assert isinstance(event.applies_to_arrays, bool)


@pytest.mark.parametrize(
    "first, second, is_same",
    [
        (Paused(at=1.0, by="ann"), Resumed(at=2.0, by="bob"), True),
        (Paused(at=1.0, by="ann", queue="q"), Resumed(at=2.0, by="bob", queue="q"), True),
        (Paused(at=1.0, by="ann", queue="q"), Paused(at=2.0, by="ann", queue="r"), False),
        (Paused(at=1.0, by="ann", schedule=1), Paused(at=2.0, by="ann"), False),
        (Resized(at=1.0, by="ann", queue="q", slots=1), Resized(at=2.0, by="bob", queue="q"), True),
        (Rescaled(at=1.0, by="ann", slots=1), Rescaled(at=2.0, by="bob"), True),
        (Rescaled(at=1.0, by="ann", slots=1), Resized(at=2.0, by="bob", queue="q"), False),
        (Resized(at=1.0, by="ann", queue="q"), Paused(at=2.0, by="ann", queue="q"), False),
        (
            Configured(at=1.0, by="ann", queue="q", setting="rate", value="10/m"),
            Configured(at=2.0, by="bob", queue="q", setting="rate"),
            True,
        ),
        (
            Configured(at=1.0, by="ann", queue="q", setting="rate"),
            Configured(at=1.0, by="ann", queue="q", setting="fair"),
            False,
        ),
        (Scheduled(at=1.0, by="ann", schedule=1), Scheduled(at=1.0, by="ann", schedule=2), False),
        (Rescheduled(at=1.0, by="ann", schedule=1), Rescheduled(at=2.0, by="bob", schedule=1), True),
        (Scheduled(at=1.0, by="ann", schedule=1), Rescheduled(at=1.0, by="ann", schedule=1), False),
        (Scheduled(at=1.0, by="ann", schedule=1), Unscheduled(at=1.0, by="ann", schedule=1), False),
    ],
)
def test_queue_event_replaces_an_earlier_one_if_their_subjects_are_equal(
    first: QueueEvent, second: QueueEvent, is_same: bool
) -> None:
    assert (first.subject == second.subject) is is_same


@pytest.mark.parametrize("is_free", [False, True])
def test_end_counts_against_retries_unless_it_is_free(is_free: bool) -> None:
    event = Ended(id=1, at=1.5, status=Status.FAILED, is_free=is_free)
    assert event.counts_against_retries is not is_free


@pytest.mark.parametrize("event", [event for event, _ in ALL])
def test_event_is_frozen(event: Any) -> None:
    with pytest.raises(AttributeError):
        event.at = 2.0


@pytest.mark.parametrize(
    "spec, last", [(Spec(), 7), (Spec(array=Array(0, 0)), 8), (Spec(array=Array(3, 5)), 10)]
)
def test_submission_uses_one_id_and_one_per_task(spec: Spec, last: int) -> None:
    assert Submitted(id=7, at=1.5, owner="ann", spec=spec).last_id == last


OUTPUTS = [
    (b"", NOTHING, "{}"),
    (b"hi\n", Output(3, 0, "hi\n"), '{"size":3,"text":"hi\\n"}'),
    ("Grüße\0".encode(), Output(8, 0, "Grüße\0"), '{"size":8,"text":"Grüße\\u0000"}'),
    (b"\xff", Output(1, 0, None, b"\xff"), '{"size":1,"base64":"/w=="}'),
    (b"\xed\xb2\x80", Output(3, 0, None, b"\xed\xb2\x80"), '{"size":3,"base64":"7bKA"}'),
]


@pytest.mark.parametrize("data, output, text", OUTPUTS)
def test_inline_output_is_encoded_and_decoded_again(data: bytes, output: Output, text: str) -> None:
    assert Output.inline(data) == output
    assert msgspec.json.encode(output).decode() == text
    assert msgspec.json.decode(text, type=Output).data == data


@given(st.binary(), st.integers(0, 2**62))
def test_any_inline_output_survives_encoding(data: bytes, dropped: int) -> None:
    output = msgspec.json.decode(msgspec.json.encode(Output.inline(data, dropped)), type=Output)
    assert (output.data, output.size, output.dropped) == (data, len(data), dropped)
    assert output.is_inline


@pytest.mark.parametrize("output", [Output(5000), Output(1, 7)])
def test_output_without_its_bytes_is_in_a_file(output: Output) -> None:
    assert output.data is None
    assert not output.is_inline


@pytest.mark.parametrize("output", [NOTHING, Output(0, 7)])
def test_empty_output_needs_no_file_even_if_bytes_were_dropped(output: Output) -> None:
    assert output.data == b""
    assert output.is_inline


def test_clocked_has_a_name_like_other_events() -> None:
    assert Clocked(at=1.0, boot_clock=2.0).name == "clocked"


def test_compacted_has_the_events_of_a_job_with_their_numbers_and_its_last_time() -> None:
    submitted = Submitted(id=7, at=1.5, owner="ann", command="true")
    started = Started(id=7, at=2.0, attempt=1)
    ended = Ended(id=7, at=3.0, status=Status.COMPLETED)
    record = Compacted(events=(submitted, started, ended), numbers=(9, 12))
    assert (record.id, record.at) == (7, 3.0)
    assert record.numbered(4) == [(4, submitted), (9, started), (12, ended)]
    text = msgspec.json.encode(record)
    assert text.startswith(b'{"type":"compacted","events":[{"type":"submitted","id":7,')
    assert msgspec.json.decode(text, type=reduce(or_, RECORDS)) == record


def test_compacted_finds_the_end_of_an_attempt() -> None:
    def ended(at: float, **values: Any) -> Ended:
        return Ended(id=7, at=at, **{"status": Status.PENDING, **values})

    void, first, second = ended(1.0, is_void=True), ended(2.0), ended(3.0, status=Status.FAILED)
    events: tuple[CompactedEvent, ...] = (
        Submitted(id=7, at=0.5, owner="ann"),
        Started(id=7, at=1.0, attempt=1),
        void,
        Started(id=7, at=2.0, attempt=1),
        first,
        Started(id=7, at=3.0, attempt=2),
        second,
    )
    record = Compacted(events=events, numbers=tuple(range(2, 8)))
    assert [record.end_of(attempt) for attempt in (1, 2, 3)] == [first, second, None]
