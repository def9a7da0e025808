"""Which processes of a killed runner's attempts are ended, by the records of them."""

import pytest

from taskqd.execution.messages import AttemptKey
from taskqd.execution.proc import Process
from taskqd.runner.attempt_files import Record
from taskqd.runner.sweep import find_leftovers

RECORD = Record(AttemptKey(7, 1, "0123456789abcdef"), "a" * 16, "s", 1000, 100, 5)
UNRECORDED = RECORD._replace(pid=None, started=None)
MARK = RECORD.mark


def process(pid: int, session: int, mark: str = "", uid: int = -1, started: int = 5) -> Process:
    return Process(pid, started, session, session, mark, uid)


@pytest.mark.parametrize(
    "table, record, expected",
    [
        pytest.param([process(100, 100)], RECORD, [100], id="the leader, without its environment"),
        pytest.param([process(100, 100, started=9)], RECORD, [], id="another process with the leader's pid"),
        pytest.param([process(100, 100), process(101, 100)], RECORD, [100, 101], id="its session"),
        pytest.param([process(101, 100)], RECORD, [], id="a session whose number may have been reused"),
        pytest.param(
            [process(101, 100, MARK, 1000), process(102, 100)], RECORD, [101, 102], id="a member has the mark"
        ),
        pytest.param([process(200, 200, MARK, 1000)], RECORD, [200], id="the mark, in another session"),
        pytest.param(
            [process(200, 200, MARK, 1000), process(201, 200)], RECORD, [200], id="others in that session"
        ),
        pytest.param([process(200, 200, MARK, 0)], RECORD, [], id="the mark, of root"),
        pytest.param([process(200, 200, MARK, 1001)], RECORD, [], id="the mark, of another user"),
        pytest.param([process(200, 200, "s.8.1", 1000)], RECORD, [], id="the mark of another attempt"),
        pytest.param([process(200, 200, MARK, 1000)], UNRECORDED, [200], id="the mark, pid not recorded"),
        pytest.param([process(100, 100)], UNRECORDED, [], id="no mark, pid not recorded"),
    ],
)
def test_leftovers_are_found_by_session_and_by_mark_of_the_user(
    table: list[Process], record: Record, expected: list[int]
) -> None:
    assert [each.pid for each in find_leftovers(table, [record])] == expected


def test_user_of_one_attempt_does_not_count_for_another() -> None:
    other = RECORD._replace(key=AttemptKey(8, 1, "f" * 16), uid=1001, pid=200)
    table = [process(300, 300, other.mark, 1000), process(301, 301, MARK, 1001), process(200, 200)]
    assert [each.pid for each in find_leftovers(table, [RECORD, other])] == [200]
