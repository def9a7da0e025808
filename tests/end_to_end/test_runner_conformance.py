"""A runner over its socket alone, as docs/runner.md specifies it.

TASKQ_TEST_RUNNER names the command of another runner, in whatever language, to which the same tests apply.
"""

import base64
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.wire import until
from tests.support.other_users import only_root
from tests.support.runner_process import PLAIN, Json, Link, RunnerProcess, key

MakeRunner = Callable[..., RunnerProcess]

IS_OURS = PLAIN[-1] == "taskqd.runner"


@pytest.fixture
def make_runner(tmp_path: Path) -> Iterator[MakeRunner]:
    """Return a factory of runners; one of ours may import and open nothing of its files after the start."""
    made: list[RunnerProcess] = []
    violations = tmp_path / "violations"
    sealed = [sys.executable, "-m", "tests.support.sealed_runner", str(violations)]

    def make(*options: str, each_look: Callable[[RunnerProcess], object] = lambda _: None) -> RunnerProcess:
        state = tmp_path / f"state-{len(made)}"
        state.mkdir()
        made.append(RunnerProcess(state, *options, command=sealed if IS_OURS else PLAIN))
        return made[-1].wait_for_start(each_look)

    yield make
    for runner in made:
        runner.close()
    assert not violations.exists() or violations.read_text() == ""


@pytest.fixture
def runner(make_runner: MakeRunner) -> RunnerProcess:
    return make_runner()


def test_welcome_names_runner_process_and_version(runner: RunnerProcess) -> None:
    welcome = runner.attach(unknown="ignored", versions=[1, 2, 99]).welcome
    assert (welcome["runner"], welcome["pid"], welcome["version"]) == (runner.name, runner.process.pid, 2)


@pytest.mark.parametrize(
    "command, expected",
    [
        ("echo hi", (None, 0, None)),
        ("exit 3", ("exit", 3, None)),
        ("kill -9 $$", ("signal", None, 9)),
    ],
)
def test_end_has_exit_code_or_signal(
    runner: RunnerProcess, command: str, expected: tuple[str | None, int | None, int | None]
) -> None:
    link = runner.attach()
    link.send(runner.make_start(1, command))
    ended = link.wait_for("ended")
    assert (ended.get("reason"), ended.get("exit_code"), ended.get("signal")) == expected


def test_short_output_is_in_the_end_and_long_output_in_files(runner: RunnerProcess) -> None:
    link = runner.attach()
    long = runner.make_start(2, "head -c 5000 /dev/zero")
    link.send(runner.make_start(1, "echo hi; echo no >&2"))
    short = link.wait_for("ended")
    assert (short["stdout"], short["stderr"]) == ({"size": 3, "text": "hi\n"}, {"size": 3, "text": "no\n"})
    link.send(long)
    assert link.wait_for("ended")["stdout"] == {"size": 5000}
    assert Path(long["stdout"]).read_bytes() == bytes(5000)


def test_order_of_both_streams_is_in_the_end_or_in_a_file(runner: RunnerProcess, tmp_path: Path) -> None:
    link = runner.attach()
    link.send(runner.make_start(1, "echo one; sleep 0.02; echo two >&2; sleep 0.02; echo 3"))
    assert [line.split(" ")[1:] for line in link.wait_for("ended")["order"].splitlines()] == [
        ["4", "0"],
        ["0", "4"],
        ["2", "0"],
    ]
    order = tmp_path / "2.order"
    link.send(runner.make_start(2, "echo one >&2; sleep 0.15; echo three", order=str(order)))
    assert "order" not in link.wait_for("ended")
    assert [line.split(" ")[1:] for line in order.read_text().splitlines()] == [["0", "4"], ["6", "0"]]


def test_output_above_max_output_is_counted_as_dropped(runner: RunnerProcess) -> None:
    link = runner.attach()
    link.send(runner.make_start(1, "head -c 100000 /dev/zero", max_output=50_000))
    assert link.wait_for("ended")["stdout"] == {"size": 50_000, "dropped": 50_000}


def test_start_that_is_sent_twice_runs_once(runner: RunnerProcess, tmp_path: Path) -> None:
    link = runner.attach()
    start = runner.make_start(1, f"echo ran >> {tmp_path}/runs")
    link.send(start, start)
    ended = link.wait_for("ended")
    link.send(start, runner.make_start(2, "true"))
    assert link.wait_for("ended")["id"] == 2
    assert ended["exit_code"] == 0
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_end_is_repeated_until_it_is_acknowledged(runner: RunnerProcess) -> None:
    link = runner.attach()
    link.send(runner.make_start(1, "exit 3"), runner.make_start(2, "sleep 60"))
    ended = link.wait_for("ended")
    link.close()
    again = runner.attach()
    assert [each["id"] for each in again.welcome["running"]] == [2]
    assert again.welcome["ended"] == [list(key(ended))]
    assert again.read() == ended
    again.ack(key(ended))
    again.close()
    assert runner.attach().welcome.get("ended", []) == []


def test_end_without_a_daemon_is_noted_with_a_checksum(runner: RunnerProcess) -> None:
    link = runner.attach()
    link.send(runner.make_start(1, "sleep 0.2; exit 5"), runner.make_start(2, "sleep 60"))
    link.wait_for("spawned", 1)
    link.close()
    [ended] = until(runner.noted, "a note")
    assert (ended["t"], ended["id"], ended["exit_code"]) == ("ended", 1, 5)
    assert runner.attach().read() == ended


def test_second_daemon_and_other_store_are_refused(runner: RunnerProcess) -> None:
    first, second = runner.attach(), runner.connect()
    second.send(runner.hello())
    assert [each["t"] for each in second.rest()] == ["refused"]
    first.send(runner.make_start(1, "sleep 60"))
    first.close()
    runner.attach().close()

    def is_refused() -> bool:
        other = runner.connect()
        other.send(runner.hello(store="0" * 32))
        return any("store" in each["why"] for each in other.rest() if each["t"] == "refused")

    until(is_refused, "a refusal of another store")


def test_daemon_without_a_common_version_has_the_base_protocol(runner: RunnerProcess) -> None:
    link = runner.attach()
    start = runner.make_start(1, "sleep 60")
    link.send(start)
    link.wait_for("spawned")
    link.close()
    later = runner.attach(versions=[98, 99])
    assert later.welcome["version"] == 0
    later.send(
        {"t": "end", "id": 1, "attempt": 1, "word": start["word"], "why": "cancelled", "number": 15},
        {"t": "retire"},
    )
    ended = later.wait_for("ended")
    assert (ended["reason"], ended["signal"]) == ("cancelled", 15)
    later.ack(key(ended))
    assert runner.wait_for_exit() == 0


def test_suspended_attempt_is_stopped_and_its_timeout_stands_still(runner: RunnerProcess) -> None:
    link = runner.attach()
    start = runner.make_start(1, "while :; do :; done", timeout=0.2)
    named = {name: start[name] for name in ("id", "attempt", "word")}
    sent = time.monotonic()
    link.send(start, {"t": "suspend", **named}, {"t": "suspend", **named, "id": 2})
    pid = link.wait_for("spawned")["pid"]
    until(lambda: f"{pid} (sh) T " in Path(f"/proc/{pid}/stat").read_text(), "the process to stop")
    until(lambda: time.monotonic() > sent + 0.3, "more than the timeout")
    link.close()
    link = runner.attach()
    assert [each["suspended"] for each in link.welcome["running"]] == [True]
    link.send({"t": "continue", **named})
    ended = link.wait_for("ended")
    assert ended["reason"] == "timeout"
    assert ended["suspended"] > 0.2


@pytest.mark.parametrize("line", [b"garbage\n", b'{"t":"retire"}\n', b"\xff\xfe\n", b"{}\n"])
def test_line_that_is_no_greeting_closes_the_connection(runner: RunnerProcess, line: bytes) -> None:
    link = runner.connect()
    link.socket.sendall(line)
    assert link.rest() == []
    runner.attach()


def test_half_a_line_is_not_handled(runner: RunnerProcess, tmp_path: Path) -> None:
    link = runner.attach()
    link.send(runner.make_start(1, "sleep 60"))
    link.socket.sendall(b'{"t":"retire"}')
    link.close()
    assert not runner.attach().welcome.get("is_retiring", False)


def test_long_line_is_handled(runner: RunnerProcess) -> None:
    link = runner.connect()
    link.send(runner.hello(release="x" * 2**25))
    first = link.read()
    assert first is not None
    assert first["t"] == "welcome"


def test_peer_that_does_not_read_stops_no_job(runner: RunnerProcess, tmp_path: Path) -> None:
    link = runner.attach()
    count = 100
    link.send(
        *(
            runner.make_start(n, f"head -c 4000 /dev/zero | tr '\\0' x; : > {tmp_path}/ran-{n}")
            for n in range(1, count + 1)
        )
    )
    until(lambda: len(list(tmp_path.glob("ran-*"))) == count, "all jobs to run")
    assert {link.wait_for("ended")["id"] for _ in range(count)} == set(range(1, count + 1))


def test_retired_runner_releases_the_lock_and_exits_after_its_last_end(runner: RunnerProcess) -> None:
    link = runner.attach()
    link.send(runner.make_start(1, "sleep 0.5"), {"t": "retire"}, runner.make_start(2, "true"))
    assert link.wait_for("ended", 2)["is_void"]
    successor = runner.second().wait_for_start()
    assert successor.name != runner.name
    ended = link.wait_for("ended", 1)
    assert runner.process.poll() is None
    link.ack(key(ended), (2, 1, f"{2:08x}{1:08x}"))
    assert runner.wait_for_exit() == 0
    assert runner.noted()[-1] == {"t": "gone", "runner": runner.name}


def test_second_runner_is_refused_while_the_first_is_active(runner: RunnerProcess) -> None:
    second = runner.second()
    assert second.wait_for_exit() == 1
    assert runner.name in runner.log.read_text()


def test_term_ends_attempts_with_their_grace_and_notes_gone(runner: RunnerProcess, tmp_path: Path) -> None:
    link = runner.attach()
    ready = tmp_path / "ready"
    link.send(runner.make_start(1, f"trap 'exit 4' TERM; : > {ready}; while :; do sleep 0.02; done"))
    until(ready.exists, "the trap")
    runner.signal(signal.SIGTERM)
    ended = link.wait_for("ended")
    assert (ended["reason"], ended["exit_code"]) == ("interrupted", 4)
    link.close()
    assert runner.wait_for_exit() == 0
    assert [each["t"] for each in runner.noted()] == ["ended", "gone"]


def test_usr1_makes_the_socket_again(runner: RunnerProcess) -> None:
    runner.attach().close()  # it runs, and no longer ignores the signal as one that is starting
    runner.file("sock").unlink()
    runner.signal(signal.SIGUSR1)
    until(runner.file("sock").exists, "the socket")
    runner.attach()


def test_usr1_before_the_socket_is_there_does_not_kill(make_runner: MakeRunner) -> None:
    make_runner(each_look=lambda starting: starting.signal_each_lock(signal.SIGUSR1)).attach()


def test_runner_without_its_socket_file_exits_in_order(runner: RunnerProcess) -> None:
    runner.file("sock").unlink()
    runner.signal(signal.SIGTERM)
    assert runner.wait_for_exit() == 0
    assert runner.noted() == [{"t": "gone", "runner": runner.name}]
    assert not runner.file("lock").exists()


def test_leave_for_0_ends_attempts_with_the_connection(runner: RunnerProcess) -> None:
    link = runner.attach(leave_for=0)
    link.send(runner.make_start(1, "sleep 60"))
    link.wait_for("spawned")
    link.close()
    assert runner.wait_for_exit() == 0
    ended, gone = runner.noted()
    assert (ended["reason"], ended["signal"], gone["t"]) == ("interrupted", 15, "gone")


def test_timeouts_without_a_daemon_end_attempts_and_an_idle_runner_exits(runner: RunnerProcess) -> None:
    link = runner.attach()
    link.send(
        runner.make_start(1, "sleep 60", timeout=0.3), runner.make_start(2, "sleep 60", idle_timeout=0.3)
    )
    link.close()
    assert runner.wait_for_exit() == 0
    notes = runner.noted()
    assert [each.get("reason") for each in notes] == ["timeout", "timeout", None]
    assert notes[-1]["t"] == "gone"


def test_followed_attempt_reports_output_that_its_file_has(runner: RunnerProcess) -> None:
    link = runner.attach()
    start = runner.make_start(1, "while :; do echo x; sleep 0.05; done")
    link.send(start, {"t": "follow", "id": 1, "attempt": 1, "word": start["word"]})
    link.wait_for("printed")
    until(lambda: Path(start["stdout"]).exists(), "the file")
    link.wait_for("printed")
    assert Path(start["stdout"]).read_bytes().startswith(b"x\n")


def sent(number: int, start: Json, **fields: Any) -> Json:
    """Return a ``send`` for an attempt, with ``text`` as its data."""
    named = {name: start[name] for name in ("id", "attempt", "word")}
    data = base64.b64encode(fields.pop("text", "").encode()).decode()
    return {"t": "send", **named, "number": number, "data": data, **fields}


def answers(link: Link, count: int) -> list[tuple[int, int, str | None]]:
    found = [link.wait_for("sent") for _ in range(count)]
    return [(each["number"], each.get("written", 0), each.get("error")) for each in found]


def test_interactive_attempt_reads_what_is_sent_until_the_end_of_the_input(runner: RunnerProcess) -> None:
    link = runner.attach()
    start = runner.make_start(1, "exec cat", interactive=True)
    link.send(start, sent(1, start, text="a"), sent(2, start, text="b", eof=True), sent(3, start, text="c"))
    assert answers(link, 3) == [(1, 1, None), (2, 1, None), (3, 0, "eof")]
    assert link.wait_for("ended")["stdout"]["text"] == "ab"


def test_input_that_is_not_read_is_withdrawn_and_dropped_with_its_daemon(runner: RunnerProcess) -> None:
    link = runner.attach()
    start = runner.make_start(1, "exec sleep 60", interactive=True)
    withdraw = {**sent(2, start), "t": "withdraw"}
    more = [sent(2, start, text="y"), sent(3, start, text="z"), withdraw, sent(4, start, text="lost")]
    link.send(start, sent(1, start, text="x" * 65_536), *more)
    assert answers(link, 3) == [(1, 65_536, None), (3, 0, "busy"), (2, 0, "withdrawn")]
    link.close()
    link = runner.attach()
    link.send(sent(1, start), sent(2, runner.make_start(2, "true"), text="x"))
    assert answers(link, 2) == [(1, 0, None), (2, 0, "ended")]


def test_leftovers_are_killed_and_cleared(runner: RunnerProcess) -> None:
    link = runner.attach()
    link.send(runner.make_start(1, "trap '' TERM; sleep 60 & exit 0", kill_after=60))
    ended = link.wait_for("ended")
    assert ended["pid"]
    link.ack(key(ended))
    link.send({"t": "kill_leftovers", "id": 1})
    assert key(link.wait_for("cleared")) == key(ended)


def test_internal_error_is_logged_without_a_file_of_the_installation(runner: RunnerProcess) -> None:
    link = runner.attach()
    link.send(runner.make_start(1, "true", uid=2**70))
    assert link.wait_for("ended")["reason"] == "spawn"


@only_root
def test_connection_of_another_user_is_closed(runner: RunnerProcess) -> None:
    runner.directory.chmod(0o711)
    runner.file("sock").chmod(0o666)
    assert runner.hello_as(65_534) == b""
    runner.attach()
