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


def test_job_is_held_after_three_kills_of_its_runner_over_restarts_of_the_daemon(
    daemon: DaemonFactory,
) -> None:
    one = daemon()
    wire = one.connect()
    job = wire.submit("--retries=9 --retry-delay=0 exec sleep 300")
    wire.wait_running(job)
    one.crash()  # the next daemon finds the runner dead
    one.start()
    wire = one.connect()
    until(lambda: wire.show(job)["attempts"] == 2, "the second attempt")
    wire.wait_running(job)
    one.kill()  # the next daemon goes on with the attempt
    one.start()
    wire = one.connect()
    one.kill_runner()
    until(lambda: wire.show(job)["attempts"] == 3, "the third attempt")
    wire.wait_running(job)
    one.kill_runner()  # under the daemon that started it
    held = until(lambda: (shown := wire.show(job))["held"] and shown, "the job to be held")
    assert (held["status"], held["attempts"]) == ("PENDING", 3), held
    assert "its runner was killed 3 times" in held["detail"]
