"""twistd's pid file: that of a dead daemon refuses no start, that of a living one does."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskqd.daemon.pid_file import hold, make_way
from taskqd.errors import StartRefused


@pytest.fixture(name="path")
def a_path(tmp_path: Path) -> Path:
    return tmp_path / "twistd.pid"


@pytest.fixture(name="other")
def another_process(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """Return the pid of a process whose command line is that of the parameter."""
    program = tmp_path / "twistd"
    program.write_text("import sys; print(flush=True); sys.stdin.read()")
    words = getattr(request, "param", [])
    process = subprocess.Popen(
        [sys.executable, str(program), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


@pytest.mark.parametrize("content", ["", "\n", "none", "0", "{own}", "{parent}", "999999999"])
def test_pid_file_of_a_dead_daemon_is_removed(
    path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(content.format(own=os.getpid(), parent=os.getppid()))
    make_way(str(path))
    assert not path.exists()
    [record] = caplog.records
    assert f"removed the pid file {path} of a daemon that is dead" in record.getMessage()


@pytest.mark.parametrize("other", [["-n", "taskq"]], indirect=True)
def test_pid_file_whose_pid_another_daemon_has_by_now_is_removed(path: Path, other: int) -> None:
    path.write_text(str(other))
    make_way(str(path))
    assert not path.exists()


@pytest.mark.parametrize("other", [["-n", "web"]], indirect=True)
def test_pid_file_of_a_twistd_of_another_kind_is_left_alone(path: Path, other: int) -> None:
    path.write_text(str(other))
    make_way(str(path))
    assert path.read_text() == str(other)


def test_pid_file_that_its_daemon_holds_is_left_alone_until_that_ends(path: Path) -> None:
    path.write_text("1234567890")
    held = hold(str(path))
    assert held is not None
    assert not os.get_inheritable(held)
    make_way(str(path))
    assert path.exists()
    assert hold(str(path)) is None
    os.close(held)
    make_way(str(path))
    assert not path.exists()


def test_pid_file_that_is_not_there_is_in_no_way_and_cannot_be_held(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    make_way(str(path))
    assert hold(str(path)) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_pid_file_that_cannot_be_written_refuses_the_start_and_names_the_option(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(StartRefused, match=f"the pid file {path} cannot be written in .*--pidfile="):
        make_way(str(path))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to(path.parent),
        lambda path: path.symlink_to(os.devnull),
        lambda path: path.symlink_to(path.parent / "no" / "such.pid"),
    ],
)
def test_pid_file_that_is_no_file_refuses_the_start_and_stays(
    path: Path, make: Callable[[Path], object]
) -> None:
    make(path)
    with pytest.raises(StartRefused, match=f"the pid file {path} .*--pidfile=FILE"):
        make_way(str(path))
    assert os.path.lexists(path)


def test_pid_file_that_is_a_link_to_one_that_can_be_made_is_left_alone(path: Path) -> None:
    path.symlink_to(path.parent / "other.pid")
    make_way(str(path))
    assert path.is_symlink()
