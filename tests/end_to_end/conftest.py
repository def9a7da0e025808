"""Fixtures: daemons for a test, a daemon for a module, and a connection to it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire


class DaemonFactory(Protocol):
    """Makes a daemon, which answers already unless ``start`` is False."""

    def __call__(self, *options: str, slots: int = 2, tcp: bool = False, start: bool = True) -> Daemon: ...


def _close(daemons: list[Daemon]) -> None:
    complaints = [complaint for daemon in daemons for complaint in daemon.close()]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonFactory]:
    """Return a factory of daemons, which are stopped after the test and must leave no processes."""
    made: list[Daemon] = []

    def make(*options: str, slots: int = 2, tcp: bool = False, start: bool = True) -> Daemon:
        place = tmp_path / f"daemon-{len(made)}"
        place.mkdir()
        made.append(Daemon(place, *options, slots=slots, tcp=tcp))
        return made[-1].start() if start else made[-1]

    yield make
    _close(made)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a separate file system of 4 MiB; only root can mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small disk")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=4m", "taskqd-test", place],
        capture_output=True,
        check=False,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)  # a runner that was killed just now still has it open


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Return a daemon shared by the tests of a module, with two slots, a UNIX socket and a TCP port."""
    shared = Daemon(tmp_path_factory.mktemp("running"), tcp=True)
    try:
        yield shared.start()
    finally:
        _close([shared])


@pytest.fixture
def wire(running: Daemon) -> Iterator[Wire]:
    """Return a new UNIX connection to the module's daemon; remaining jobs are cancelled after the test."""
    connection = running.connect()
    yield connection
    connection.close()
    sweeper = running.connect()
    sweeper.cancel(*(job["id"] for job in sweeper.list("--status=PENDING,RUNNING")))
    sweeper.close()
