"""Dependencies and arrays, with a real daemon (docs/protocol.md §3)."""

from pathlib import Path

from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.wire import Wire


def test_dependents_start_or_are_skipped_by_the_kind_of_dependency(wire: Wire) -> None:
    good, bad = wire.submit("--hold true"), wire.submit("--hold false")
    after_good, after_bad = wire.submit(f"--after={good} true"), wire.submit(f"--after={bad} true")
    any_of_both = wire.submit(f"--after-any={good},{bad} true")
    if_bad, if_good = wire.submit(f"--after-fail={bad} true"), wire.submit(f"--after-fail={good} true")
    chained = wire.submit(f"--after={after_bad} true")
    assert wire.show(after_good)["reason"] == "after"
    assert wire.ask(f"WHY {after_good}") == f"OK waits for job {good} (PENDING, --after)"
    for job in (good, bad):
        wire.ask(f"RELEASE {job}")
    jobs = [after_good, after_bad, any_of_both, if_bad, if_good, chained]
    assert [wire.wait(job) for job in jobs] == [
        "COMPLETED",
        "FAILED",
        "COMPLETED",
        "COMPLETED",
        "FAILED",
        "FAILED",
    ]
    assert [wire.show(job)["reason"] for job in (after_bad, if_good, chained)] == ["dependency"] * 3
    assert [event["type"] for event in wire.history(chained)] == ["submitted", "skipped"]
    assert wire.result(chained).exit_code == "-"


def test_dependency_that_does_not_exist_is_refused(wire: Wire) -> None:
    assert wire.ask("SUBMIT --after=999999 true").startswith("ERROR NO_SUCH_JOB ")
    gone = wire.submit("true")
    wire.wait(gone)
    assert wire.ask(f"REMOVE {gone}") == "OK"
    assert wire.ask(f"SUBMIT --after={gone} true").startswith("ERROR GONE ")


def test_jobs_with_a_label_or_key_are_waited_for_although_some_have_ended(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    wire.wait(wire.submit("--label=build true"))
    slow, other = wire.submit("--label=build --hold true"), wire.submit("--key=a/b --hold true")
    request = "--key=k --after-label=build --after-key=a/b echo it ran"
    last = wire.submit(request)
    shown = wire.show(last)
    assert (shown["after"], shown["after_label"], shown["after_key"]) == ([1, slow, other], "build", ["a/b"])
    wire.submit("--label=build false")
    assert wire.ask("SUBMIT --after-label=unknown true").startswith("ERROR NO_SUCH_JOB you have no job with ")
    one.crash()
    one.start()
    wire = one.connect()
    assert wire.submit(request) == last
    assert wire.status(last) == "PENDING"
    for job in (slow, other):
        assert wire.ask(f"RELEASE {job}").startswith("STATUS ")
    assert wire.wait(last) == "COMPLETED"
    assert wire.result(last).stdout == b"it ran\n"


def test_cancel_skips_dependents_and_with_cascade_cancels_them(wire: Wire) -> None:
    for option, ends in (("", "FAILED"), (" --cascade", "CANCELLED")):
        first = wire.submit("--hold true")
        second = wire.submit(f"--after={first} true")
        third = wire.submit(f"--after={second} true")
        assert wire.ask(f"CANCEL {first}{option}") == "STATUS CANCELLED 0"
        assert [wire.wait(job) for job in (second, third)] == [ends, ends]


def test_dependencies_survive_a_crash(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    first = wire.submit("--hold false")
    others = [wire.submit(f"--after={first} true") for _ in range(300)]
    last = wire.submit(f"--after-any={others[-1]} echo it ran")
    one.kill()
    one.start()
    wire = one.connect()
    wire.send(f"RELEASE {first}\r\nWAIT {others[0]}\r\n".encode())
    wire.lines(2)
    one.kill()
    one.start()
    wire = one.connect()
    assert {wire.wait(job) for job in others} == {"FAILED"}
    assert {wire.show(job)["reason"] for job in others} == {"dependency"}
    assert wire.wait(last) == "COMPLETED"


def test_array_is_one_submission_and_each_task_has_its_index(wire: Wire) -> None:
    array = wire.submit("--array=3-7%2 echo $TASKQ_INDEX of $TASKQ_ARRAY_ID; exit $((TASKQ_INDEX == 5))")
    assert wire.wait(array) == "FAILED"
    for index in range(3, 8):
        assert wire.result(f"{array}.{index}").stdout == f"{index} of {array}\n".encode()
    assert wire.status(f"{array}.5") == "FAILED"
    shown = wire.show(array)
    assert (shown["tasks"]["completed"], shown["tasks"]["failed"], shown["array_spec"]) == (4, 1, "3-7%2")
    assert [job["index"] for job in wire.list(f"--array={array}")] == [3, 4, 5, 6, 7]
    assert [job["id"] for job in wire.list(f"--from={array} --limit=1")] == [array]
    assert wire.ask(f"RESULT {array}").startswith("ERROR WRONG_STATE ")
    assert wire.ask(f"STATUS {array}.8").startswith("ERROR NO_SUCH_JOB ")
    assert wire.ask(f"RETRY {array}") == f"JOB_ID {array}"
    assert wire.wait(array) == "FAILED"
    assert [wire.show(f"{array}.{index}")["attempts"] for index in (3, 5)] == [1, 2]
    assert wire.ask(f"REMOVE {array}.3").startswith("ERROR WRONG_STATE ")
    assert wire.ask(f"REMOVE {array}") == "OK"
    assert wire.ask(f"STATUS {array}.3").startswith("ERROR GONE ")
    assert wire.submit("true") > shown["tasks"]["first"] + 4


def test_limit_of_an_array_is_enforced_and_its_tasks_survive_a_crash(daemon: DaemonFactory) -> None:
    one = daemon(slots=4)
    wire = one.connect()
    array = wire.submit("--array=1-6%2 --retries=3 --retry-delay=0 sleep 0.3")
    after = wire.submit(f"--after={array} echo done")
    wire.wait_running(array)
    assert wire.show(array)["tasks"]["running"] <= 2
    assert "a place in the limit of array" in wire.ask(f"WHY {array}.6")
    one.kill()
    one.start()
    wire = one.connect()
    assert wire.wait(after) == "COMPLETED"
    assert wire.show(array)["tasks"]["completed"] == 6
    starts = sorted(wire.show(f"{array}.{index}")["started_at"] for index in range(1, 7))
    ends = sorted(wire.show(f"{array}.{index}")["completed_at"] for index in range(1, 7))
    for start in starts:
        assert sum(one_start <= start for one_start in starts) - sum(end <= start for end in ends) <= 2


def test_single_task_or_the_whole_array_can_be_cancelled(wire: Wire) -> None:
    array = wire.submit("--array=0-999%1 sleep 300")
    wire.wait_running(array)
    assert wire.ask(f"CANCEL {array}.500") == "STATUS CANCELLED 0"
    assert wire.ask(f"STATUS {array}.500") == "STATUS CANCELLED 0"
    assert wire.status(array) == "RUNNING"
    assert wire.ask(f"CANCEL {array}").startswith("STATUS ")
    assert wire.wait(array) == "CANCELLED"
    assert wire.show(array)["tasks"]["cancelled"] == 1000
    assert [event["type"] for event in wire.history(array)] == ["submitted", "cancelled"]


def test_retry_with_cascade_runs_skipped_dependents(wire: Wire, tmp_path: Path) -> None:
    go = tmp_path / "go"
    first = wire.submit(f"test -e {go}")
    second = wire.submit(f"--after={first} true")
    array = wire.submit(f"--array=1-3 --after={second} true")
    other = wire.submit(f"--after={array},{second} true")
    unrelated = wire.submit("false")
    assert [wire.wait(job) for job in (first, second, array, other, unrelated)] == ["FAILED"] * 5
    assert wire.show(first)["skipped"] == 1
    go.touch()
    assert wire.ask(f"RETRY {first}") == f"JOB_ID {first}"
    assert wire.wait(first) == "COMPLETED"
    assert [wire.status(job) for job in (second, array, other)] == ["FAILED"] * 3
    assert wire.ask(f"RETRY {first} --cascade") == f"JOB_ID {first}"
    assert [wire.wait(job) for job in (first, second, array, other)] == ["COMPLETED"] * 4
    assert "skipped" not in wire.show(first)
    assert wire.status(unrelated) == "FAILED"
    assert wire.ask("RETRY --cascade 999999").startswith("ERROR NO_SUCH_JOB ")
    assert wire.ask(f"RETRY --cascade=1 {first}").startswith("ERROR BAD_REQUEST ")


def test_skipped_dependents_are_known_after_a_restart(daemon: DaemonFactory) -> None:
    one = daemon()
    wire = one.connect()
    first = wire.submit("false")
    second = wire.submit(f"--after={first} true")
    assert wire.wait(second) == "FAILED"
    one.restart()
    assert one.connect().show(first)["skipped"] == 1
