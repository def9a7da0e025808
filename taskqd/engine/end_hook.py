"""What the operator has run when a job ends: a job of its own, with the ended job's JSON on its stdin.

Its queue has a few slots of its own, so that notices neither flood the machine nor wait behind the backlog
(docs/decisions/0012).
"""

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.config.settings import ON_END_QUEUE, OnEnd
from taskqd.engine.engine import Engine
from taskqd.errors import TaskqError
from taskqd.model.actor import Actor
from taskqd.model.job import Job, Status
from taskqd.model.spec import Spec

OWNER = Actor("[on_end]")
"""Who submits the notices: nobody else can have that name."""
PRIORITY = 1_000_000
"""They go before everything else."""


class EndHook:
    """Submits a notice of each end that ``on_end`` is about."""

    _log = Logger()

    def __init__(self, engine: Engine, describe: Callable[[Job], dict[str, Any]], on_end: OnEnd) -> None:
        self._engine = engine
        self._describe = describe
        self._on_end = on_end

    def told(self, job: Job) -> None:
        """Submit the notice of a job that has ended, if there is to be one.

        There is none of a notice itself, nor of a task: its array has one. One that cannot be submitted is
        logged, and lost.
        """
        is_one_of_ours = job.spec.queue == ON_END_QUEUE
        is_wanted = job.status is Status.FAILED or not (self._on_end.is_of_failures or job.spec.notify_fail)
        if is_one_of_ours or job.array is not None or not is_wanted:
            return
        document = msgspec.json.encode(self._describe(job)) + b"\n"
        spec = Spec(
            queue=ON_END_QUEUE,
            priority=PRIORITY,
            timeout=self._on_end.timeout,
            label=f"on_end {job.id}",
            stdin=len(document),
            as_daemon=True,
        )
        submitted = maybeDeferred(self._engine.submit, self._on_end.command, spec, OWNER, {"stdin": document})
        submitted.addErrback(self._not_submitted, job.id)

    def _not_submitted(self, failure: Failure, job_id: int) -> None:
        failure.trap(TaskqError)
        self._log.warn("no notice of the end of job {id}: {why}", id=job_id, why=failure.value)
