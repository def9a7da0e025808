"""Runs the operator's ``on_end`` command when a job ends, as a job with the ended job's JSON on its stdin.

These jobs have a queue with a few slots, so that they neither flood the machine nor wait behind other jobs
(docs/decisions/0012).
"""

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.config.settings import ON_END_QUEUE, OnEnd
from taskqd.engine.submissions import NewJob, Submissions
from taskqd.errors import TaskqError
from taskqd.model.actor import END_HOOK
from taskqd.model.job import Job, Status
from taskqd.model.spec import Spec

PRIORITY = 1_000_000
"""Above the priority of any other job."""


class EndHook:
    """Submits the ``on_end`` command for each end of a job that the settings ask for.

    ``describe(job)`` returns the job as a JSON document.
    """

    _log = Logger()

    def __init__(
        self, submissions: Submissions, describe: Callable[[Job], dict[str, Any]], settings: OnEnd
    ) -> None:
        self._submissions = submissions
        self._describe = describe
        self._settings = settings

    def on_job_ended(self, job: Job) -> None:
        """Submit the command for a job that has ended.

        It does not run for itself, nor for a task: it runs once for the array. If it cannot be submitted,
        that is logged and not tried again.
        """
        is_hook = job.spec.queue == ON_END_QUEUE
        is_wanted = job.status is Status.FAILED or not (self._settings.is_of_failures or job.spec.notify_fail)
        if is_hook or job.array is not None or not is_wanted:
            return
        document = msgspec.json.encode(self._describe(job)) + b"\n"
        spec = Spec(
            queue=ON_END_QUEUE,
            priority=PRIORITY,
            timeout=self._settings.timeout,
            label=f"on_end {job.id}",
            stdin=len(document),
            as_daemon=True,
        )
        new = NewJob(self._settings.command, spec, END_HOOK, {"stdin": document})
        maybeDeferred(self._submissions.submit, new).addErrback(self._on_submit_failed, job.id)

    def _on_submit_failed(self, failure: Failure, job_id: int) -> None:
        failure.trap(TaskqError)
        self._log.warn("the on_end command does not run for job {id}: {why}", id=job_id, why=failure.value)
