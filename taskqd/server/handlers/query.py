"""Handlers of the verbs that show jobs: STATUS, SHOW, LIST, HISTORY, WHY."""

from twisted.internet.defer import Deferred

from taskqd.errors import WrongState
from taskqd.protocol import replies
from taskqd.protocol.requests import JobRequest, ListRequest
from taskqd.server.handlers.base import HandlerGroup, LineSender, Reply, handles, send_lines
from taskqd.server.handlers.job_list import JobList
from taskqd.server.interfaces import IClient
from taskqd.state.explain import explain
from taskqd.storage.interfaces import IEventReader


class QueryHandlers(HandlerGroup):
    """Shows jobs, and changes nothing."""

    @handles("STATUS")
    def _status(self, client: IClient, request: JobRequest) -> bytes:
        job = self._queue_state.get(request.job)
        return replies.status(job, *self._job_view.progress(job))

    @handles("SHOW")
    def _show(self, client: IClient, request: JobRequest) -> bytes:
        job = self._queue_state.get(request.job)
        skipped = self._queue_state.skips.count(job.id)
        document = self._job_view.show(job)
        if skipped:
            document["skipped"] = skipped
        return replies.as_json("JOB", document)

    @handles("LIST")
    def _list(self, client: IClient, request: ListRequest) -> Reply:
        if request.array is not None and self._queue_state.get(request.array).tasks is None:
            raise WrongState(f"job {request.array} is not an array, so it has no tasks")
        wanted = self._authorizer.narrow(client.principal, request.wanted)
        if wanted is None:
            return replies.end(0)
        jobs = JobList(self._queue_state, request, wanted, self._format_job)

        def end(sent: int) -> bytes:
            return replies.end(sent if jobs.counted is None else jobs.counted, jobs.following)

        return Deferred.fromCoroutine(send_lines(client, jobs.lines(), end))

    @handles("HISTORY")
    def _history(self, client: IClient, request: JobRequest) -> Reply:
        job = self._queue_state.get(request.job)
        ids = (job.id,) if job.array is None else (job.id, job.array)
        return Deferred.fromCoroutine(_send_events(client, self._job_view.history(*ids)))

    @handles("WHY")
    def _why(self, client: IClient, request: JobRequest) -> bytes:
        job, now = self._queue_state.get(request.job), self._clock.elapsed()
        shortage = self._engine.dispatcher.explain_delay(now)
        return replies.ok(explain(self._queue_state, job, now, shortage))


async def _send_events(client: IClient, reader: IEventReader) -> bytes:
    sender = LineSender(client)
    while batch := await client.while_connected(reader.read_batch()):
        for sequence, event in batch:
            sender.add(replies.event(sequence, event))
            if sender.must_send:
                await sender.send()
    return sender.end()
