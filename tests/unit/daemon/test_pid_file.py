"""twistd's pid file: one of a dead daemon is removed, one of a running daemon is not."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskqd.daemon.pid_file import lock, remove_stale
from taskqd.errors import StartRefused


@pytest.fixture(name="path")
def a_path(tmp_path: Path) -> Path:
    return tmp_path / "twistd.pid"


@pytest.fixture(name="other")
def another_process(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """Return the pid of a process that has the parameter in its command line."""
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
    remove_stale(str(path))
    assert not path.exists()
    [record] = caplog.records
    assert f"removed the pid file {path} of a daemon that is dead" in record.getMessage()


@pytest.mark.parametrize("other", [["-n", "taskq"]], indirect=True)
def test_pid_file_with_a_pid_that_another_daemon_has_now_is_removed(path: Path, other: int) -> None:
    path.write_text(str(other))
    remove_stale(str(path))
    assert not path.exists()


@pytest.mark.parametrize("other", [["-n", "web"]], indirect=True)
def test_pid_file_of_a_twistd_with_another_plugin_is_left_alone(path: Path, other: int) -> None:
    path.write_text(str(other))
    remove_stale(str(path))
    assert path.read_text() == str(other)


def test_pid_file_is_left_alone_while_its_daemon_has_it_locked(path: Path) -> None:
    path.write_text("1234567890")
    held = lock(str(path))
    assert held is not None
    assert not os.get_inheritable(held)
    remove_stale(str(path))
    assert path.exists()
    assert lock(str(path)) is None
    os.close(held)
    remove_stale(str(path))
    assert not path.exists()


def test_pid_file_that_does_not_exist_cannot_be_locked_and_is_no_error(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    remove_stale(str(path))
    assert lock(str(path)) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_pid_file_that_cannot_be_written_refuses_the_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(StartRefused, match=f"the pid file {path} cannot be written in .*--pidfile="):
        remove_stale(str(path))


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
def test_pid_file_that_is_not_a_file_refuses_the_start_and_is_not_removed(
    path: Path, make: Callable[[Path], object]
) -> None:
    make(path)
    with pytest.raises(StartRefused, match=f"the pid file {path} .*--pidfile=FILE"):
        remove_stale(str(path))
    assert os.path.lexists(path)


def test_pid_file_that_is_a_link_to_a_file_that_can_be_made_is_left_alone(path: Path) -> None:
    path.symlink_to(path.parent / "other.pid")
    remove_stale(str(path))
    assert path.is_symlink()
