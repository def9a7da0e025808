"""Handler of SUBMIT, one at a time or in batches of many connections."""

from itertools import starmap

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from taskqd.auth.principal import Principal
from taskqd.engine.submissions import NewJob, SubmissionBatch
from taskqd.errors import TaskqError
from taskqd.model.actor import Actor
from taskqd.model.environment import Environment, environment_of, sort_block
from taskqd.model.submission import ENVIRONMENT_BLOCK, Refusal, SimilarSubmissions, Submission
from taskqd.protocol import replies
from taskqd.server.handlers.base import HandlerGroup, Reply, handles
from taskqd.server.handlers.environments import check_environment, checked
from taskqd.server.handlers.with_blocks import WithBlocks
from taskqd.server.interfaces import IClient

_NO_ACTOR = Actor("")
"""The actor of a batch that is refused as a whole, so that nothing is recorded under this name."""


class SubmitHandlers(HandlerGroup):
    """Accepts jobs. Each request is answered once its job is durable."""

    @handles("SUBMIT")
    def _submit(self, client: IClient, request: WithBlocks[Submission]) -> Reply:
        command, spec = request.request
        blocks, environment = dict(request.blocks), None
        check_environment(client, spec)
        if ENVIRONMENT_BLOCK in blocks:
            environment = sort_block(blocks.pop(ENVIRONMENT_BLOCK))
            spec = replace(spec, environment=environment_of(environment))
        principal = client.principal
        spec = self._authorizer.authorize_submission(principal, command, spec, request.secret_size)
        max_pending = self._authorizer.max_pending(principal)
        new = NewJob(
            command,
            spec,
            principal.actor,
            blocks,
            environment,
            max_pending=max_pending,
            queue=principal.queue,
        )
        accepted = self._engine.submissions.submit(new)
        if new.spec.environment is not None:
            accepted.addCallback(self._keep_environment, client, new.spec.environment)
        return accepted.addCallback(replies.job_id)

    def _keep_environment(self, job_id: int, client: IClient, environment: Environment) -> int:
        """Let a client name the environment of a job that was accepted by its hash."""
        client.keep_environment(self._engine.environments.pin(environment))
        return job_id

    def submit_all(
        self, batches: list[tuple[IClient, Principal | TaskqError, list[SimilarSubmissions]]]
    ) -> "Deferred[list[bytes]]":
        """Accept submissions without keys and blocks, and fire with the reply to each batch.

        A batch is a client, its principal, or the error that refuses all of it, and the submissions.
        """
        authorized = list(starmap(self._authorize_batch, batches))
        return self._engine.submissions.submit_all(authorized).addCallback(
            lambda results: [replies.job_ids(batch) for batch in results]
        )

    def _authorize_batch(
        self, client: IClient, principal: Principal | TaskqError, submissions: list[SimilarSubmissions]
    ) -> SubmissionBatch:
        if isinstance(principal, TaskqError):
            return SubmissionBatch(
                _NO_ACTOR, [Refusal(principal, len(each.commands)) for each in submissions]
            )
        accepted = self._authorizer.authorize_submissions(principal, submissions)
        accepted = checked(client, accepted)
        return SubmissionBatch(principal.actor, accepted, self._authorizer.max_pending(principal))
