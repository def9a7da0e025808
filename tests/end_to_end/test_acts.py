"""Acts on many jobs by a real daemon: in the middle of a crash, and beside other clients."""

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.wire import Wire, until

JOBS = 20_000


def fill(wire: Wire, count: int) -> None:
    """Submit held jobs to queue q."""
    for _ in range(0, count, 1000):
        wire.send(b"SUBMIT --hold --queue=q true\r\n" * 1000)
        for _ in range(1000):
            assert wire.line().startswith("JOB_ID ")


def counts(wire: Wire) -> dict[str, int]:
    """Return the numbers of the jobs of queue q by status."""
    of_q = wire.queues()["q"]
    return {status: of_q[status] for status in ("pending", "running", "cancelled")}


def test_crash_in_an_act_on_many_leaves_each_job_changed_or_not_and_a_second_one_finishes_it(
    daemon: DaemonFactory,
) -> None:
    one = daemon()
    fill(one.connect(), JOBS)
    acting, looking = one.connect(), one.connect()
    acting.send(b"CANCEL --queue=q\r\n")
    until(lambda: counts(looking)["cancelled"] > JOBS // 20, "some jobs to be cancelled")
    one.crash()
    one.start()

    wire = one.connect()
    after = counts(wire)
    assert JOBS // 20 < after["cancelled"] < JOBS
    assert after["cancelled"] + after["pending"] == JOBS
    assert wire.ask("CANCEL --queue=q") == f"OK {after['pending']}"
    assert counts(wire) == {"pending": 0, "running": 0, "cancelled": JOBS}
    assert wire.ask("CANCEL --queue=q") == "OK 0"


def test_acknowledged_act_on_many_survives_a_crash(daemon: DaemonFactory) -> None:
    one = daemon()
    fill(one.connect(), 1000)
    assert one.connect().ask("CANCEL --queue=q") == "OK 1000"
    one.crash()
    one.start()
    assert counts(one.connect())["cancelled"] == 1000


def test_other_clients_are_answered_during_an_act_on_many(daemon: DaemonFactory) -> None:
    one = daemon()
    fill(one.connect(), JOBS)
    acting, looking = one.connect(), one.connect()
    acting.send(b"CANCEL --queue=q\r\n")
    seen = [0]
    while seen[-1] < JOBS:
        seen.append(counts(looking)["cancelled"])
    assert len(set(seen)) > 10
    assert acting.line() == f"OK {JOBS}"


def test_client_that_closes_its_half_gets_the_count(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    fill(wire, 2000)
    wire.send(b"HOLD --queue=q\r\nCANCEL --queue=q --match=true\r\n")
    wire.half_close()
    assert [wire.line(), wire.line()] == ["OK 0", "OK 2000"]
