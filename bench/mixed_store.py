"""Yields the records of stores with many jobs that have ended and many that wait, without running them.

Job 1 takes the only slot of a daemon that starts with such a store, so all others wait in line behind it.
"""

import os
import pwd
import secrets
import time
from collections.abc import Iterator

from taskqd.model import events
from taskqd.model.job import Reason, Status
from taskqd.model.spec import DEFAULT_SPEC, Array, Spec

RARE = 5
"""Jobs that have a label, a queue and an owner that no others have. Those of them that have ended, FAILED."""
STRANGER = 65534
"""The user ID of a user who has five jobs; it is that of no person."""

OWNERS = ("bob", "ana", "ana")
SPECS = (DEFAULT_SPEC, Spec(queue="q7"), Spec(label="nightly"))


def stranger() -> str:
    """Return the name of the user who has five jobs."""
    return pwd.getpwuid(STRANGER).pw_name


def mixed_jobs(jobs: int) -> Iterator[events.JobEvent]:
    """Yield the records of jobs of which the first half has ended, but for job 1; the others wait in line."""
    now, runner = time.time(), secrets.token_hex(8)
    rare = {jobs * number // (RARE + 1) for number in range(1, RARE + 1)}
    yield _blocker(now)
    for job_id in range(2, jobs + 1):
        spec, owner = SPECS[job_id % 3], OWNERS[job_id % 3]
        if job_id in rare:
            spec, owner = Spec(queue="rare", label="rare"), "rare"
        elif job_id - 1 in rare:
            owner = stranger()
        command = f"echo hello world {job_id}"
        yield events.Submitted(id=job_id, at=now, owner=owner, command=command, spec=spec, origin="pid 1")
        if job_id <= jobs // 2:
            yield events.Started(id=job_id, at=now, attempt=1, word=secrets.token_hex(8), runner=runner)
            has_failed = job_id in rare
            yield events.Ended(
                id=job_id,
                at=now,
                status=Status.FAILED if has_failed else Status.COMPLETED,
                reason=Reason.EXIT if has_failed else None,
                exit_code=int(has_failed),
                stdout=events.Output.inline(b"hello world %d\n" % job_id),
            )


def queued_jobs(queues: int) -> Iterator[events.JobEvent]:
    """Yield the submissions of job 1 and of one job per queue, which wait."""
    now = time.time()
    yield _blocker(now)
    for job_id in range(2, queues + 2):
        spec = Spec(queue=f"q{job_id}")
        yield events.Submitted(id=job_id, at=now, owner="ana", command="true", spec=spec)


def array(tasks: int) -> Iterator[events.JobEvent]:
    """Yield the submissions of job 1 and of an array, whose tasks wait."""
    now = time.time()
    yield _blocker(now)
    spec = Spec(array=Array(1, tasks))
    yield events.Submitted(id=2, at=now, owner="ana", command="true", spec=spec)


def _blocker(now: float) -> events.Submitted:
    owner = pwd.getpwuid(os.geteuid()).pw_name
    return events.Submitted(id=1, at=now, owner=owner, command="exec sleep 3600", spec=DEFAULT_SPEC)
