"""``taskq retry``: jobs that are not retried."""

import pytest

from tests.fakes.daemon import job, replies
from tests.support.cli_calls import Call, Serve, a_call, a_daemon, plain_environment  # noqa: F401 - these are fixtures
from tests.unit.cli.samples import SUBMITTED


@pytest.mark.parametrize(
    "skipped, message",
    [
        (0, ""),
        (1, "taskq: job 7: 1 job that failed because of it is not retried; see --cascade\n"),
        (2, "taskq: job 7: 2 jobs that failed because of it are not retried; see --cascade\n"),
    ],
)
def test_retry_reports_number_of_jobs_that_are_not_retried(
    serve: Serve, call: Call, skipped: int, message: str
) -> None:
    serve(replies({"RETRY 7": SUBMITTED, "SHOW": job(skipped=skipped)}))
    assert call("retry", "7") == (0, b"7\n", message)


def test_retry_cascade_is_sent(serve: Serve, call: Call) -> None:
    daemon = serve(replies({"RETRY 7 --cascade": SUBMITTED, "SHOW": job()}))
    assert call("retry", "--cascade", "7") == (0, b"7\n", "")
    assert daemon.lines[0] == "RETRY 7 --cascade"
