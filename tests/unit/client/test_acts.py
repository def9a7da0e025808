"""Acts on many jobs: by filters in one request, and by ids in a pipeline."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from taskqd.client import Client, Refused
from tests.fakes.daemon import FakeDaemon, Request, job, refused
from tests.unit.client.samples import Serve


@pytest.mark.parametrize(
    "verb, options, line",
    [
        ("CANCEL", {"queue": "q", "signal": "INT"}, "CANCEL --queue=q --signal=INT"),
        ("RETRY", {"status": "FAILED", "owner": "ann", "label": None}, "RETRY --status=FAILED --owner=ann"),
        ("HOLD", {"label": "a b", "match": "x"}, 'HOLD --label="a b" --match=x'),
        (
            "SET",
            {"queue": "q", "label": "x", "match": "m", "changes": {"queue": "fast", "timeout": None}},
            "SET --in-queue=q --with-label=x --match=m --queue=fast --timeout=none",
        ),
    ],
)
def test_act_on_many_sends_filters_and_returns_the_number_of_changed_jobs(
    serve: Serve, verb: str, options: dict[str, Any], line: str
) -> None:
    client, requests = serve(b"OK 17\r\n")
    assert client.act_on_many(verb, **options) == 17
    assert requests == [Request(line)]


def test_act_on_many_passes_its_progress_on(serve: Serve) -> None:
    client, requests = serve(b"PROGRESS 5 17\r\nPROGRESS 9 17\r\nOK 16\r\n")
    reports: list[tuple[int, int]] = []
    changed = client.act_on_many("HOLD", queue="q", on_progress=lambda *report: reports.append(report))
    assert (changed, reports) == (16, [(5, 17), (9, 17)])
    assert requests == [Request("HOLD --queue=q --progress")]


@pytest.mark.parametrize(
    "hello, can", [(b'{"limits":{"acts":5000}}', True), (b'{"limits":{"acts":null}}', True), (b"{}", False)]
)
def test_daemon_that_has_the_limit_of_acts_can_act_on_many(serve: Serve, hello: bytes, can: bool) -> None:
    client, _ = serve(b"TASKQ 1 %b\r\n" % hello)
    assert client.can_act_on_many() is can


@pytest.mark.parametrize(
    "verb, options, reply, result, words",
    [
        ("CANCEL", {"signal": "INT"}, b"STATUS RUNNING 7\r\n", ("RUNNING", 7), " --signal=INT"),
        ("CANCEL", {"cascade": True}, b"STATUS RUNNING 7\r\n", ("RUNNING", 7), " --cascade"),
        ("HOLD", {}, b"STATUS PENDING 0\r\n", ("PENDING", 0), ""),
        ("RELEASE", {}, b"STATUS PENDING 0\r\n", ("PENDING", 0), ""),
        ("SUSPEND", {}, b"STATUS RUNNING 7\r\n", ("RUNNING", 7), ""),
        ("CONTINUE", {}, b"STATUS RUNNING 7\r\n", ("RUNNING", 7), ""),
        ("RETRY", {}, b"JOB_ID 1\r\n", 1, ""),
        ("REMOVE", {}, b"OK\r\n", None, ""),
        ("SET", {"changes": {"nice": 3}}, b'JOB {"id":1}\r\n', {"id": 1}, " --nice=3"),
    ],
)
def test_act_on_each_yields_results_and_refusals_in_order(
    serve: Serve, verb: str, options: dict[str, Any], reply: bytes, result: Any, words: str
) -> None:
    client, requests = serve(reply, refused("GONE", "job 2 has been removed"), reply)
    first, second, third = client.act_on_each(verb, [1, 2, "3.1"], **options)
    assert first == third == result
    assert isinstance(second, Refused)
    assert second.code == "GONE"
    assert [request.line for request in requests] == [f"{verb} {each}{words}" for each in ("1", "2", "3.1")]


def test_show_each_yields_jobs_in_order(serve: Serve) -> None:
    client, _ = serve(job(1), job(2))
    assert [shown["id"] for shown in client.show_each([1, 2]) if not isinstance(shown, Refused)] == [1, 2]


def test_requests_are_sent_before_the_replies_to_earlier_ones(tmp_path: Path) -> None:
    """A daemon that answers only after the last request would wait for ever for a client that does not."""
    count = 500
    seen: list[Request] = []

    def answer(request: Request) -> Iterable[bytes]:
        seen.append(request)
        return [] if len(seen) < count else [b"STATUS CANCELLED 0\r\n" * count]

    with FakeDaemon(answer, tmp_path) as daemon, Client(daemon.address) as client:
        assert len(list(client.act_on_each("CANCEL", range(1, count + 1)))) == count


def test_client_can_be_used_after_an_iteration_was_left(tmp_path: Path) -> None:
    with (
        FakeDaemon(lambda _: b"STATUS CANCELLED 0\r\n", tmp_path) as daemon,
        Client(daemon.address) as client,
    ):
        results = client.act_on_each("CANCEL", range(1, 100))
        next(results)
        results.close()  # type: ignore[attr-defined]  # it is a generator
        assert client.cancel(1).status == "CANCELLED"
