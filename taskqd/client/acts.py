"""Client methods for acts on many jobs: by filters in one request, or by ids in a pipeline."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from taskqd.client import encoder
from taskqd.client.connection import Pipeline
from taskqd.client.decoder import Facts, Refused, Status
from taskqd.client.encoder import Changes, Ref, option
from taskqd.client.session import encode_request
from taskqd.client.streams import MAX_BATCH_BYTES, MAX_UNANSWERED, Streams

if TYPE_CHECKING:
    from typing_extensions import Unpack

Reply = TypeVar("Reply")

_FILTERS_OF_SET = {"queue": "in-queue", "label": "with-label"}
"""Options that select jobs for SET, for which the options of these names are values to set."""

_STATUS_ACTS = ("CANCEL", "HOLD", "RELEASE", "SUSPEND", "CONTINUE")
"""The acts that are answered with the status of the job."""


class ActFilters(TypedDict, total=False):
    """Filters of jobs to act on: those of ``Filters`` without a key, an array and tasks."""

    status: str | None
    queue: str | None
    owner: str | None
    label: str | None
    match: str | None


class Acts(Streams):
    """The part of the client that changes many jobs; ``verb`` is CANCEL, RETRY, SET or another act.

    ``signal`` and ``cascade`` are those of ``cancel`` and ``retry``, ``changes`` those of ``set``.
    """

    def can_act_on_many(self) -> bool:
        """Whether the daemon has ``act_on_many``, which is so since release 0.8."""
        return "acts" in self._query(b"HELLO", self._reader.read_hello).get("limits", {})

    def act_on_many(
        self,
        verb: str,
        *,
        signal: str | None = None,
        changes: Changes | None = None,
        on_progress: Callable[[int, int], object] | None = None,
        **filters: "Unpack[ActFilters]",
    ) -> int:
        """Change all jobs that match the filters and to which the act applies; return how many that were.

        ``on_progress(done, total)`` is called some times per second if it takes longer (since release 0.9).

        At least one filter is needed. If the connection is lost, some jobs may have been changed; the call
        can be repeated.
        """
        for name in {"command", "script"}.intersection(changes or {}):
            raise TypeError(f"{name!r} is changed of one job, and not of all that match")
        names = _FILTERS_OF_SET if verb == "SET" else {}
        selected = b"".join(option(names.get(name, name), value) for name, value in _given(filters))
        line = verb.encode("ascii") + selected + _options(signal, cascade=False, changes=changes)
        if on_progress is None:
            return self._request(line, self._reader.read_number)
        report = on_progress
        return self._request(line + b" --progress", lambda: self._reader.read_acted(report))

    def act_on_each(
        self,
        verb: str,
        jobs: Iterable[Ref],
        *,
        signal: str | None = None,
        cascade: bool = False,
        changes: Changes | None = None,
    ) -> "Iterator[Status | Facts | int | Refused | None]":
        """Change jobs without waiting for each reply; yield what the method for one returns, or a Refused."""
        readers: dict[str, Callable[[], Any]] = {
            **dict.fromkeys(_STATUS_ACTS, self._reader.read_status),
            "SET": self._reader.read_job,
            "RETRY": self._reader.read_id,
            "REMOVE": self._reader.read_ok,
        }
        options = _options(signal, cascade, changes)
        lines = (_line_of(verb, job) + options for job in jobs)
        return self._pipelined(lines, readers[verb])

    def show_each(self, jobs: Iterable[Ref]) -> Iterator[Facts | Refused]:
        """Return all fields of each job, or a Refused, without waiting for each reply."""
        return self._pipelined((_line_of("SHOW", job) for job in jobs), self._reader.read_job)

    def _pipelined(self, lines: Iterable[bytes], read: Callable[[], Reply]) -> Iterator[Reply | Refused]:
        self._send(b"")
        pipeline = Pipeline(self._connection)
        try:
            for line in lines:
                pipeline.add(line + b"\r\n")
                if pipeline.buffered_bytes >= MAX_BATCH_BYTES:
                    yield from self._read_replies(pipeline, MAX_UNANSWERED, read)
            yield from self._read_replies(pipeline, 0, read)
        except GeneratorExit:
            pipeline.discard_replies()
            raise


def _line_of(verb: str, job: Ref) -> bytes:
    return verb.encode("ascii") + b" " + encode_request(lambda: encoder.ref(job))


def _given(filters: ActFilters) -> Iterator[tuple[str, str]]:
    return ((name, str(value)) for name, value in filters.items() if value is not None)


def _options(signal: str | None, cascade: bool, changes: Changes | None) -> bytes:
    encoded = b"" if changes is None else encode_request(lambda: encoder.changes(changes))
    return option("signal", signal) + b" --cascade" * cascade + encoded
