"""Checks that the benchmark's programs work; their figures do not matter here."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.load import Programs
from bench.main import MEASUREMENTS
from bench.plot import Bar, Series, bars, lines
from bench.report import table_of_rows
from bench.results import Goal, Kept, Measured, Row, Store
from bench.slow_disk import sync_slowly
from bench.verb_cases import cases
from bench.verbs import growth
from tests.support.every_verb import LINES

CHECKOUT = Path(__file__).parents[1]
RUN_TIMEOUT = 240
"""Seconds."""


def run(*options: str) -> "subprocess.CompletedProcess[str]":
    """Run bench/run with this Python, which has the needed packages."""
    return subprocess.run(
        [CHECKOUT / "bench" / "run", *options],
        env={**os.environ, "BENCH_PYTHON": sys.executable},
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
    )


def test_quick_run_of_some_measurements_writes_a_page_and_leaves_nothing(tmp_path: Path) -> None:
    some = ["submissions", "roundtrip", "verbs"]  # .ci/run makes a quick run of all
    done = run("--quick", "--only", ",".join(some), "--dir", str(tmp_path), "--to", str(tmp_path / "to"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "to" / "RESULTS.md").read_text("utf-8")
    assert all(f"| {name} | " in page for name in some)
    assert "reached" not in page, "a quick run compares nothing with a goal"
    assert [file.name for file in tmp_path.iterdir()] == ["to"], "no other files are left"


def test_list_option_prints_names_of_measurements() -> None:
    listed = run("--list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == [one.name for one in MEASUREMENTS]


def test_unknown_measurement_is_refused() -> None:
    done = run("--only", "nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr


@pytest.mark.parametrize(
    "goal, ours, theirs, is_reached",
    [
        (Goal(2), [40.0, 41.0, 90.0], [20.0, 20.0, 20.0], True),
        (Goal(2), [30.0, 41.0, 39.0], [20.0, 20.0, 20.0], False),
        (Goal(4, is_most=True), [7.0], [2.0], True),
        (Goal(4, is_most=True), [9.0], [2.0], False),
        (Goal(5, is_most=True, is_ratio=False), [4.0], [], True),
        (Goal(30_000, is_ratio=False), [29_999.0], [], False),
        (Goal(2), [40.0], [], None),
        (None, [40.0], [20.0], None),
    ],
)
def test_goal_is_compared_with_median_of_ratios(
    goal: Goal | None, ours: list[float], theirs: list[float], is_reached: bool | None
) -> None:
    assert Row("what", "against", "/s", ours, theirs, goal).is_reached is is_reached


def test_table_names_missing_peer() -> None:
    *_, line = table_of_rows(
        [Row("puts", "beanstalkd", "/s", [1234.0], [], Goal(2), missing="beanstalkd (Debian)")]
    )
    assert line == "| puts | beanstalkd | 1,230 /s | missing: beanstalkd (Debian) | - | at least 2 x |  |"


def test_store_replaces_older_result_of_same_measurement(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "results.json")
    for number in (1.0, 2.0):
        row = Row("what", "against", "/s", [number])
        store.keep("one", Kept(Measured([row]), "now", "revision", 1.0, "bench/run"))
        store.keep("other", Kept(Measured(), "now", "revision", 1.0, "bench/run"))
    kept = store.read()
    assert list(kept) == ["one", "other"]
    assert kept["one"].measured.rows[0].ours == [2.0]
    store.clear()
    assert store.read() == {}


def test_plots_show_every_name_and_number() -> None:
    drawn = bars("title", [Bar("ours & theirs", 3.0, "3 x"), Bar("none", 0.5, "0.5 x")], mark=1.0)
    assert all(text in drawn for text in ("title", "ours &amp; theirs", "3 x", "0.5 x"))
    drawn = lines(
        "title",
        "jobs",
        ["0", "10k"],
        [Series("flat", [(0.9, 1.0, 1.1)] * 2), Series("other", [(1, 1, 1)] * 2)],
    )
    assert all(f">{text}<" in drawn for text in ("jobs", "0", "10k", "flat", "other"))


@pytest.mark.parametrize(
    "costs, why, said",
    [
        ([200.0, 900.0, 299.0], "", "flat"),
        ([2000.0, 2999.0], "an index", "flat"),
        ([200.0, 350.0], "an index", "an index"),
        ([200.0, 350.0], "", "**x 1.75**"),
    ],
)
def test_growth_of_cost_is_flat_or_has_reason(costs: list[float], why: str, said: str) -> None:
    assert growth(costs, why) == said


def test_growth_is_measured_for_every_verb() -> None:
    made = cases(1000, 60, "token")
    # SEND needs a job that runs; its cost is that of finding a job by its id.
    assert {case.request(n).split()[0] for case in made for n in (0, 1)} == set(LINES) - {"SEND"}
    assert len({case.name for case in made}) == len(made)


def test_slow_disk_syncs_before_it_waits() -> None:
    synced: list[float] = []
    began = time.monotonic()
    sync_slowly(lambda _: synced.append(time.monotonic() - began), 0.05, 3)
    assert synced[0] < 0.05 <= time.monotonic() - began


@pytest.mark.skipif(not shutil.which("cc"), reason="the load generator is written in C")
def test_open_loop_charges_pause_of_server_to_all_requests_due_meanwhile(tmp_path: Path) -> None:
    pause, seconds = 0.3, 0.4

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(
                b"OK\n" * len(connection.recv(100).splitlines())
            )  # the one that does not count
            time.sleep(pause)
            while received := connection.recv(100):
                connection.sendall(b"OK\n" * len(received.splitlines()))

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        found = Programs(tmp_path).arrivals(tmp_path / "socket", b"PING\n", "OK", 500, seconds, clients=1)
        thread.join()
    assert found.requests > 100
    assert found.worst > 0.9 * pause
    assert found.median > 0.01, "most requests were due in the pause, though one was under way"
