"""A job that kills its runner again and again is held, and says why."""

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.wire import until


def test_job_that_kills_its_runner_three_times_is_held_and_says_why(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("--retries=9 kill -9 $PPID; sleep 300")
    held = until(lambda: (shown := wire.show(job))["held"] and shown, "the job to be held", pause=0.1)
    assert (held["status"], held["attempts"]) == ("PENDING", 3), held
    assert "its runner was killed 3 times" in held["detail"]
    why = wire.ask(f"WHY {job}")
    assert "held" in why, why
    assert wire.wait(wire.submit("true")) == "COMPLETED"
