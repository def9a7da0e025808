"""The footprint of a job is an upper bound of its memory."""

import gc
import tracemalloc
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from taskqd.model.environment import Environment
from taskqd.model.events import Submitted
from taskqd.model.footprint import (
    ATTEMPT_BYTES,
    DEPENDENCY_BYTES,
    ENTRY_BYTES,
    ENVIRONMENT_BYTES,
    GROUP_BYTES,
    JOB_BYTES,
    NAMED_BYTES,
    QUEUE_BYTES,
    SPEC_BYTES,
    TASK_BYTES,
    footprint,
    footprint_of,
    footprint_of_ended,
    footprint_of_kept,
    text_bytes,
)
from taskqd.model.spec import DEFAULT_SPEC, Array, NamedDependencies
from taskqd.protocol.retry_conditions import MAX_CONDITIONS
from taskqd.state.queue_state import QueueState
from tests.support.events import (
    array,
    cancelled,
    changed,
    ended,
    fold,
    released,
    retried,
    spec,
    started,
    submitted,
)


@pytest.mark.parametrize("text, size", [("", 0), ("abc", 3), ("\xe9", 6), ("\u20ac", 7), ("\N{SNAKE}", 9)])
def test_text_bytes_of_non_ascii_text_is_its_largest_form_in_python(text: str, size: int) -> None:
    assert text_bytes(text) == size


@pytest.mark.parametrize(
    "asked, size",
    [
        ({}, 0),
        ({"env": {"AB": "xyz"}}, ENTRY_BYTES + 5),
        ({"env_base64": {"AB": b"xyz"}}, ENTRY_BYTES + 5),
        ({"script_line": "make"}, 4),
        ({"key": "abc"}, 3),
        ({"cwd": "/tmp"}, 4),
        ({"label": "mail"}, 4),
        ({"unless": "mail"}, 4),
        (
            {
                "named": NamedDependencies(
                    after_label="ab", after_any_label="\xe9", after_key=("a",), after_fail_key=("bcd", "e")
                )
            },
            NAMED_BYTES + 2 + 6 + 3 * ENTRY_BYTES + 5,
        ),
        ({"stdout": "/log/%j", "stderr": "/err"}, 11),
        ({"secrets": ("KEY",)}, ENTRY_BYTES + 3),
        ({"environment": Environment(9, "ab" * 32)}, ENVIRONMENT_BYTES),
        ({"needs": {"gpu": 1}}, ENTRY_BYTES + 3),
        ({"queue": "slow"}, 0),
        ({"array": Array(3, 5)}, 3 * TASK_BYTES),
        ({"array": Array(3, 5, at_once=2)}, 3 * TASK_BYTES + GROUP_BYTES),
        ({"retry_on": ("exit",), "no_retry_on": ("spawn",)}, 2 * ENTRY_BYTES),
        ({"after": (1, 2), "after_any": (1,), "after_fail": (4,)}, 4 * DEPENDENCY_BYTES),
    ],
)
def test_footprint_counts_each_field_of_a_spec_that_may_be_large(asked: dict[str, Any], size: int) -> None:
    assert footprint("true", spec(**asked)) == JOB_BYTES + 4 + size + (SPEC_BYTES if asked else 0)
    assert footprint("true", DEFAULT_SPEC) == JOB_BYTES + 4


@pytest.mark.parametrize("asked", [{"queue": "slow"}, {"slots": 2}, {"needs": {"gpu": 1}}])
def test_group_counts_once_for_all_pending_jobs_of_an_owner(asked: dict[str, Any]) -> None:
    queue_state = fold(submitted(1))
    before, size = queue_state.pending_bytes, footprint("true", spec(**asked))
    assert not queue_state.has_group("ann", spec(**asked))
    for job_id in (2, 3):
        queue_state.apply(submitted(job_id, **asked))
    assert queue_state.has_group("ann", spec(**asked))
    assert queue_state.pending_bytes == before + 2 * size + GROUP_BYTES
    queue_state.apply(started(2))
    assert queue_state.pending_bytes == before + size + GROUP_BYTES
    queue_state.apply(cancelled(3))
    assert queue_state.pending_bytes == before == queue_state.pending_bytes_of("ann")
    queue = QUEUE_BYTES if "queue" in asked else 0
    assert queue_state.retention_index.memory == size + queue, "it may be the last job of its queue"
    assert footprint_of_kept(queue_state.get(3)) == size + queue


def test_group_follows_changes_of_a_job_and_of_an_array() -> None:
    queue_state = fold(submitted(1, queue="a"), submitted(2, queue="a"), array(3, 2, queue="b"))
    before = queue_state.pending_bytes
    queue_state.apply(changed(1, queue="b"))
    assert queue_state.pending_bytes == before + SPEC_BYTES
    queue_state.apply(changed(2, queue="b"))
    assert queue_state.pending_bytes == before + 2 * SPEC_BYTES - GROUP_BYTES
    queue_state.apply(changed(3, queue="c", array=Array(1, 2)))
    assert queue_state.pending_bytes == before + 3 * SPEC_BYTES
    assert [queue_state.has_group("ann", spec(queue=name)) for name in "abc"] == [False, True, True]
    queue_state.apply(cancelled(3))
    assert not queue_state.has_group("ann", spec(queue="c"))


def test_pending_bytes_follow_changes_starts_and_retries_of_a_job() -> None:
    queue_state = fold(submitted(1, env={"A": "1"}, label="x" * 50))
    whole = JOB_BYTES + SPEC_BYTES + ENTRY_BYTES + 2 + 4
    assert queue_state.pending_bytes == whole + 50
    queue_state.apply(changed(1, env={"A": "1"}, label="y" * 10))
    job = queue_state.get(1)
    assert job.spec_before_change is not None
    assert job.spec.env is job.spec_before_change.env, (
        "a replay keeps an environment once, as the daemon does"
    )
    assert queue_state.pending_bytes == whole + 60 + SPEC_BYTES == footprint_of(job)
    queue_state.apply(started(1))
    assert queue_state.pending_bytes == 0 == queue_state.pending_bytes_of("ann")
    queue_state.apply(ended(1))
    assert queue_state.pending_bytes == 0
    queue_state.apply(retried(1))
    assert (
        queue_state.pending_bytes
        == whole + 60 + SPEC_BYTES + ATTEMPT_BYTES
        == queue_state.pending_bytes_of("ann")
    )
    queue_state.apply(cancelled(1))
    assert queue_state.pending_bytes == 0 == queue_state.pending_bytes_of("bob")


@pytest.mark.parametrize("key, kept", [("k", 4), (None, 0)])
def test_pending_bytes_follow_changes_of_a_command(key: str | None, kept: int) -> None:
    queue_state = fold(submitted(1, key=key, script_line="x" * 9))
    whole = JOB_BYTES + 2 * SPEC_BYTES + len(key or "")
    for command in ("y" * 90, "z" * 70):
        event = replace(changed(1, key=key, script_line="w" * 7), command=command)
        queue_state.apply(event)
        assert queue_state.get(1).command == command
        assert queue_state.pending_bytes == whole + len(command) + kept + 7 + 9
    queue_state.apply(changed(1, key=key, nice=1))
    assert queue_state.pending_bytes == whole + 4 + 9


def test_pending_bytes_of_an_array_count_until_all_tasks_have_ended() -> None:
    queue_state = fold(array(1, 2, label="mail", delay=5.0))
    whole = JOB_BYTES + SPEC_BYTES + 2 * TASK_BYTES
    assert queue_state.pending_bytes == whole + 8
    queue_state.apply(released(1))
    assert queue_state.pending_bytes == whole + 12 + SPEC_BYTES, "the original spec is kept as well"
    for runs, task in enumerate((2, 3), 1):
        queue_state.apply(started(task))
        assert queue_state.pending_bytes == whole + 12 + SPEC_BYTES + runs * ATTEMPT_BYTES
    queue_state.apply(ended(2))
    queue_state.apply(ended(3))
    assert queue_state.pending_bytes == 0
    assert queue_state.retention_index.memory == whole + 12 + SPEC_BYTES + 2 * ATTEMPT_BYTES
    queue_state.apply(retried(3))
    assert queue_state.pending_bytes == whole + 12 + SPEC_BYTES + 2 * ATTEMPT_BYTES
    assert queue_state.retention_index.memory == 0


@pytest.mark.parametrize(
    "asked",
    [
        {"env": {f"N{number}": "" for number in range(2000)}},
        {"env": {"A": "\N{SNAKE}" * 10_000}},
        {"after": tuple(range(1, 1001))},
        {"after_any": tuple(range(1, 501)), "after_fail": tuple(range(501, 1001))},
        {"label": "\u20ac" * 1000, "key": "k" * 100, "cwd": "/" + "x" * 4000},
        {
            "after": tuple(range(1, 1001)),
            "named": NamedDependencies(
                after_label="\u20ac" * 1000, after_key=tuple("k" * 100 + str(n) for n in range(50))
            ),
        },
        {"retry_on": tuple(f"exit:{code}" for code in range(1, MAX_CONDITIONS + 1))},
    ],
    ids="-".join,
)
def test_pending_job_takes_no_more_memory_than_its_footprint(asked: dict[str, Any]) -> None:
    queue_state = fold(*(submitted(job_id) for job_id in range(1, 1001)))
    count, before = 20, queue_state.pending_bytes
    lines = [
        msgspec.json.encode(Submitted(id=job_id, at=1.0, owner="ann", spec=spec(**{**asked, "nice": job_id})))
        for job_id in range(1001, 1001 + count)
    ]
    taken = _bytes_for(queue_state, lines)
    assert taken <= queue_state.pending_bytes - before


@pytest.mark.parametrize("distinct", [1, 7, 400])
def test_pending_jobs_take_no_more_memory_than_they_and_their_groups_count(distinct: int) -> None:
    queue_state = fold(submitted(1))
    before = queue_state.pending_bytes
    lines = [
        msgspec.json.encode(
            Submitted(
                id=job_id,
                at=1.0,
                owner="ann",
                spec=spec(queue=f"q{job_id % distinct}", slots=2, needs={"gpu": job_id % distinct + 1}),
            )
        )
        for job_id in range(2, 402)
    ]
    taken, counted = _bytes_for(queue_state, lines), queue_state.pending_bytes - before
    assert taken <= counted
    assert counted == 400 * footprint("", spec(queue="q", needs={"gpu": 1})) + distinct * GROUP_BYTES


def test_jobs_with_different_environments_take_no_more_memory_than_their_footprints() -> None:
    queue_state = fold(*(submitted(job_id) for job_id in range(1, 1001)))
    before, ids = queue_state.pending_bytes, range(1001, 1101)
    lines = [
        msgspec.json.encode(submitted(job_id, environment=Environment(job_id, f"{job_id:064x}")))
        for job_id in ids
    ]
    assert _bytes_for(queue_state, lines) <= queue_state.pending_bytes - before


def test_job_with_1000_dependencies_takes_a_sixth_of_the_memory_of_plain_lists() -> None:
    queue_state = fold(*(submitted(job_id) for job_id in range(1, 1001)))
    ids = range(1, 1001)
    lines = [
        msgspec.json.encode(
            Submitted(id=job_id, at=1.0, owner="ann", spec=spec(after=tuple(ids[: 1000 - job_id % 7])))
        )
        for job_id in range(1001, 1101)
    ]
    assert _bytes_for(queue_state, lines) / len(lines) < 18_000


def _bytes_for(queue_state: QueueState, lines: list[bytes]) -> int:
    """Return the memory that the submissions of some request lines take."""
    gc.collect()
    tracemalloc.start()
    try:
        for line in lines:
            queue_state.apply(msgspec.json.decode(line, type=Submitted))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("commands", [["true", "echo hi"], ["true", "echo \xe9"], []])
def test_footprint_of_ended_jobs_is_the_sum_of_theirs(commands: list[str]) -> None:
    events = [
        event
        for job_id, command in enumerate(commands, 1)
        for event in (
            Submitted(
                id=job_id,
                at=1.0,
                owner="ann",
                command=command,
                spec=spec(label="x") if job_id % 2 else DEFAULT_SPEC,
            ),
            started(job_id),
            ended(job_id),
        )
    ]
    jobs = list(fold(*events).jobs.values())
    assert footprint_of_ended(jobs) == sum(map(footprint_of, jobs))
