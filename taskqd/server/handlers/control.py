"""Handlers of the verbs that change existing jobs, such as CANCEL, HOLD and SET."""

from twisted.internet.defer import Deferred

from taskqd.auth.authorization import Authorizer
from taskqd.auth.principal import Principal
from taskqd.auth.submission_limits import count_changes
from taskqd.engine.acts import Act, NewCommand, checked
from taskqd.engine.engine import Engine
from taskqd.model.job import Job
from taskqd.protocol import replies
from taskqd.protocol.act_requests import (
    CancelManyRequest,
    CancelRequest,
    ManyRequest,
    RetryRequest,
    SetManyRequest,
    SetRequest,
)
from taskqd.protocol.requests import JobRequest
from taskqd.server.handlers.act_on_many import ActOnMany
from taskqd.server.handlers.base import HandlerGroup, Reply, handles
from taskqd.server.handlers.job_view import JobView
from taskqd.server.handlers.with_blocks import WithBlocks
from taskqd.server.interfaces import IClient
from taskqd.storage.interfaces import IClock


class ControlHandlers(HandlerGroup):
    """Changes jobs. Each request is answered once its change is durable."""

    def __init__(self, engine: Engine, job_view: JobView, clock: IClock, authorizer: Authorizer) -> None:
        super().__init__(engine, job_view, clock, authorizer)
        self._acts = engine.job_commands.acts
        self._act_on_many = ActOnMany(engine, authorizer, clock)

    def _change_many(self, client: IClient, verb: str, request: ManyRequest, act: Act) -> Reply:
        changed = Deferred.fromCoroutine(self._act_on_many.carry_out(client, verb, request, act))
        return changed.addCallback(lambda count: replies.ok(f"{count}"))

    @handles("CANCEL")
    def _cancel(self, client: IClient, request: CancelRequest | CancelManyRequest) -> Reply:
        if isinstance(request, CancelManyRequest):
            act = self._acts.cancel(client.principal.actor, request.signal)
            return self._change_many(client, "CANCEL", request, act)
        cancelled = Deferred.fromCoroutine(self._cancel_all(client.principal, request))
        return cancelled.addCallback(self._format_status)

    async def _cancel_all(self, principal: Principal, request: CancelRequest) -> Job:
        """Cancel a job, and with `is_cascade` its dependents; all are authorized before any is cancelled."""
        job = self._queue_state.get(request.job)
        dependents: list[int] = []
        if request.is_cascade:
            count = count_changes((job,))

            def check(dependent: Job) -> None:
                nonlocal count
                self._authorizer.authorize_dependent(principal, dependent)
                count += count_changes((dependent,))

            dependents = await self._engine.job_commands.dependents_of(job.id, check)
            self._authorizer.charge(principal, count)
        return await self._engine.job_commands.cancel(job.id, principal.actor, request.signal, dependents)

    @handles("RETRY")
    def _retry(self, client: IClient, request: RetryRequest | ManyRequest) -> Reply:
        if isinstance(request, ManyRequest):
            return self._change_many(client, "RETRY", request, self._acts.retry(client.principal.actor))
        job_id = self._id_of(request.job)
        if request.is_cascade:
            retried = self._retry_all(client.principal, job_id)
        else:
            retried = self._engine.job_commands.retry(job_id, client.principal.actor)
        return Deferred.fromCoroutine(retried).addCallback(lambda job: replies.job_id(job.id))

    async def _retry_all(self, principal: Principal, job_id: int) -> Job:
        """Retry a job, then the jobs that were skipped because of it, oldest first.

        After an error some of them have been retried, and the others are unchanged.
        """
        job = self._queue_state.get(job_id)
        skipped = await self._engine.job_commands.skipped_because_of(
            job_id, lambda each: self._authorizer.authorize_skipped(principal, each)
        )
        self._authorizer.charge(principal, count_changes((job, *skipped)))
        act = self._acts.retry(principal.actor)

        def make_act() -> Act:
            return checked(act, self._authorizer.portion_check(principal, "RETRY"))

        await self._engine.job_commands.retry(job_id, principal.actor)
        await self._engine.job_commands.carry_out_in_portions([each.id for each in skipped], make_act)
        return job

    @handles("REMOVE")
    def _remove(self, client: IClient, request: JobRequest | ManyRequest) -> Reply:
        if isinstance(request, ManyRequest):
            return self._change_many(client, "REMOVE", request, self._acts.remove(client.principal.actor))
        removed = self._engine.job_commands.remove(self._id_of(request.job), client.principal.actor)
        return Deferred.fromCoroutine(removed).addCallback(lambda _: replies.OK)

    @handles("HOLD")
    def _hold(self, client: IClient, request: JobRequest | ManyRequest) -> Reply:
        if isinstance(request, ManyRequest):
            return self._change_many(client, "HOLD", request, self._acts.hold(client.principal.actor))
        held = self._engine.job_commands.hold(self._id_of(request.job), client.principal.actor)
        return Deferred.fromCoroutine(held).addCallback(self._format_status)

    @handles("RELEASE")
    def _release(self, client: IClient, request: JobRequest | ManyRequest) -> Reply:
        if isinstance(request, ManyRequest):
            return self._change_many(client, "RELEASE", request, self._acts.release(client.principal.actor))
        released = self._engine.job_commands.release(self._id_of(request.job), client.principal.actor)
        return Deferred.fromCoroutine(released).addCallback(self._format_status)

    @handles("SUSPEND")
    def _suspend(self, client: IClient, request: JobRequest | ManyRequest) -> Reply:
        if isinstance(request, ManyRequest):
            return self._change_many(client, "SUSPEND", request, self._acts.suspend(client.principal.actor))
        suspended = self._engine.job_commands.suspend(self._id_of(request.job), client.principal.actor)
        return Deferred.fromCoroutine(suspended).addCallback(self._format_status)

    @handles("CONTINUE")
    def _continue(self, client: IClient, request: JobRequest | ManyRequest) -> Reply:
        if isinstance(request, ManyRequest):
            act = self._acts.continue_(client.principal.actor)
            return self._change_many(client, "CONTINUE", request, act)
        continued = self._engine.job_commands.continue_(self._id_of(request.job), client.principal.actor)
        return Deferred.fromCoroutine(continued).addCallback(self._format_status)

    @handles("SET")
    def _set(self, client: IClient, given: WithBlocks[SetRequest | SetManyRequest]) -> Reply:
        request = given.request
        if isinstance(request, SetManyRequest):
            act = self._acts.change(client.principal.actor, request.values)
            return self._change_many(client, "SET", request, act)
        job, actor = self._queue_state.get(request.job), client.principal.actor
        if request.changes_execution:
            as_daemon = self._authorizer.authorize_execution(client.principal, job)
            new = NewCommand(request.command or "", given.blocks.get("script"), as_daemon)
            changed = self._engine.command_changes.change(job.id, actor, request.values, new)
        else:
            changed = self._engine.job_commands.change(job.id, actor, request.values)
        return Deferred.fromCoroutine(changed).addCallback(self._format_job)
