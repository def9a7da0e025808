"""A daemon that is a fork of tests/support/fork_server.py has all that an executed one has."""

import os
from pathlib import Path

import pytest

from tests.end_to_end import daemon as harness
from tests.end_to_end.conftest import DaemonFactory
from tests.end_to_end.daemon import Daemon

STATUS = ("Uid", "Gid", "Groups", "Umask", "SigBlk", "SigIgn", "SigCgt", "CapEff", "NoNewPrivs", "NSsid")


def observe(one: Daemon) -> dict[str, object]:
    """Return what the kernel and a job say about a daemon, without what differs for each."""
    place = Path(f"/proc/{one.pid}")
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    paths = [os.readlink(each) for each in (place / "fd").iterdir()]
    shown = one.connect().run("env; pwd; umask; ulimit -a; readlink /proc/self/ns/*").stdout.decode()
    return {
        "status": {name: status[name].strip() for name in STATUS},
        "limits": [line for line in (place / "limits").read_text().splitlines() if "msgqueue" not in line],
        "directory": os.readlink(place / "cwd") == str(one.place),
        "files": sorted(path.replace(str(one.place), "") for path in paths if path.startswith("/")),
        "job": [line for line in shown.splitlines() if "TASKQ_" not in line and str(one.place) not in line],
    }


def test_forked_daemon_is_like_an_executed_one(
    daemon: DaemonFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "FORKS", True)
    forked = daemon()
    monkeypatch.setattr(harness, "FORKS", False)
    executed = daemon()
    lines = [Path(f"/proc/{one.pid}/cmdline").read_bytes() for one in (forked, executed)]
    assert [b"fork_server" in line for line in lines] == [True, False]
    assert observe(forked) == observe(executed)
    assert (forked.stop(), executed.stop()) == (-15, -15)
