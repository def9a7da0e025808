"""The sweep removes the files of unknown jobs and attempts."""

import pytest

from tests.unit.storage.spool.samples import Bench, filled, present


def test_sweep_removes_files_of_unknown_jobs_and_attempts(bench: Bench) -> None:
    filled(
        *(bench, "1.script", "1.secret", "1.1.stdout", "1.2.stdout", "1.3.stdout", "1"),
        *("1.1.order", "1.3.order"),
        *("2.stdin", "2.secret", "2.1.stderr", "2", "3"),
    )
    attempts = {1: 2, 3: 0}
    assert bench.spool.sweep(attempts.get, {1, 3}) == 6
    assert present(bench) == {"1.script", "1.secret", "1.1.stdout", "1.2.stdout", "1.1.order", "1", "3"}
    assert bench.spool.sweep(attempts.get, {1, 3}) == 0


def test_sweep_keeps_output_and_progress_of_a_running_attempt(bench: Bench) -> None:
    filled(bench, "1.stdin", "1.2.stdout", "1.2.stderr", "1")
    assert bench.spool.sweep({1: 2}.get, {1}) == 0
    assert present(bench) == {"1.stdin", "1.2.stdout", "1.2.stderr", "1"}


def test_sweep_keeps_the_script_that_the_spec_of_a_job_names(bench: Bench) -> None:
    filled(bench, "1.script", "1.1.script", "2.script", "2.1.script", "3.script", "3.stdin", "4.1.script")
    scripts = {1: 1, 2: 0}
    swept = bench.spool.sweep({1: 0, 2: 3, 3: 0}.get, (), script_file_of=scripts.get)
    assert (swept, present(bench)) == (4, {"1.1.script", "2.script", "3.stdin"})


def test_sweep_removes_progress_of_a_job_that_does_not_run(bench: Bench) -> None:
    filled(bench, "1.1.stdout", "1")
    assert bench.spool.sweep({1: 1}.get, {2}) == 1
    assert present(bench) == {"1.1.stdout"}


@pytest.mark.parametrize("name", ["README", "7.1.stdout.bak", "7.x", "x7", "7.1.2.stdout"])
def test_sweep_keeps_files_that_belong_to_no_job(bench: Bench, name: str) -> None:
    for kind in ("output/0", "input/0", "progress"):
        (bench.directory / kind).mkdir(exist_ok=True)
        (bench.directory / kind / name).touch()
    assert bench.spool.sweep(lambda _: None, ()) == 0
    assert present(bench) == {name}


@pytest.mark.parametrize(
    "path", ["progress/7/step", "output/README", "output/0/7.1.stdout/x", "input/notes/7.stdin", "input/7"]
)
def test_sweep_logs_foreign_entries_in_one_line(
    bench: Bench, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    stray = bench.directory / path
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_text("precious")
    (bench.directory / "output" / "link").symlink_to("/")
    filled(bench, "8.stdin")
    assert bench.spool.sweep(lambda _: None, ()) == 1
    assert stray.read_text() == "precious"
    [record] = caplog.records
    said = record.getMessage()
    assert said.startswith(f"2 entries in {bench.directory} are not the daemon's and are left alone: ")
    assert str(bench.directory / "output" / "link") in said


def test_sweep_logs_up_to_five_foreign_entries(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(100):
        (bench.directory / "output" / f"note-{number:02}").touch()
    bench.spool.sweep(lambda _: None, ())
    [record] = caplog.records
    assert record.getMessage().startswith("100 entries in ")
    assert record.getMessage().count("note-") == 5


@pytest.mark.parametrize("call", ["list_directory", "remove"])
def test_sweep_that_fails_raises(bench: Bench, call: str) -> None:
    filled(bench, "7.stdin")
    bench.filesystem.fail(call)
    with pytest.raises(OSError, match="No space left"):
        bench.spool.sweep(lambda _: None, ())
