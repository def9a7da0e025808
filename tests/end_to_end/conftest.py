"""A daemon for a test, a daemon for a module, a connection."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire


class DaemonFactory(Protocol):
    """Makes a daemon, ready to answer unless it is told not to start."""

    def __call__(self, *options: str, slots: int = 2, tcp: bool = False, start: bool = True) -> Daemon: ...


def _close(daemons: list[Daemon]) -> None:
    complaints = [complaint for daemon in daemons for complaint in daemon.close()]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonFactory]:
    """Make daemons of the test's own; each is ended with it and must leave neither process nor traceback."""
    made: list[Daemon] = []

    def make(*options: str, slots: int = 2, tcp: bool = False, start: bool = True) -> Daemon:
        place = tmp_path / f"daemon-{len(made)}"
        place.mkdir()
        made.append(Daemon(place, *options, slots=slots, tcp=tcp))
        return made[-1].start() if start else made[-1]

    yield make
    _close(made)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Return a daemon that a module's tests share: two slots, a UNIX socket and a TCP port."""
    shared = Daemon(tmp_path_factory.mktemp("running"), tcp=True)
    try:
        yield shared.start()
    finally:
        _close([shared])


@pytest.fixture
def wire(running: Daemon) -> Iterator[Wire]:
    """Return a new connection to the module's daemon, over UNIX; jobs that the test leaves are cancelled."""
    connection = running.connect()
    yield connection
    connection.close()
    sweeper = running.connect()
    sweeper.cancel(*(job["id"] for job in sweeper.list("--status=PENDING,RUNNING")))
    sweeper.close()
