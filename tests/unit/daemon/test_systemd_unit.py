"""Units by the control groups of their processes, and what systemctl says about them."""

import sys
from pathlib import Path

import pytest

from taskqd.daemon import systemd_unit
from taskqd.daemon.systemd_unit import Unit, ask_kill_mode, cgroup_of, unit_of

V1 = """\
12:pids:/system.slice/taskqd.service
4:cpu,cpuacct:/
1:name=systemd:/system.slice/taskqd.service
"""
HYBRID = "9:memory:/\n1:name=systemd:/user.slice/session-2.scope\n0::/user.slice/session-2.scope\n"
OPENRC = "1:name=openrc:/taskqd\n0::/\n"


@pytest.mark.parametrize(
    "text, path",
    [
        ("0::/system.slice/taskqd.service\n", "/system.slice/taskqd.service"),
        ("0::/\n", "/"),
        (V1, "/system.slice/taskqd.service"),
        (HYBRID, "/user.slice/session-2.scope"),
        ("1:name=systemd:/\n0::/a.service\n", "/"),
        (OPENRC, "/"),
        ("2:cpu:/docker/1234\n", "/"),
        ("0::/a:b/c.service\n", "/a:b/c.service"),
        ("0::/system.slice/old.service (deleted)\n", "/system.slice/old.service"),
        ("", "/"),
    ],
)
def test_control_group_is_the_one_that_systemd_uses(text: str, path: str) -> None:
    assert cgroup_of(text) == path


_USER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    "cgroup, unit",
    [
        ("/", None),
        ("/docker/1234", None),
        ("/system.slice", None),
        ("/system.slice/taskqd.service", Unit("taskqd.service", "/system.slice/taskqd.service")),
        ("/system.slice/taskqd.service/jobs/1", Unit("taskqd.service", "/system.slice/taskqd.service")),
        (
            "/system.slice/system-taskqd.slice/taskqd@a.service",
            Unit("taskqd@a.service", "/system.slice/system-taskqd.slice/taskqd@a.service"),
        ),
        (
            "/user.slice/user-1000.slice/session-3.scope",
            Unit("session-3.scope", "/user.slice/user-1000.slice/session-3.scope"),
        ),
        (_USER, Unit("user@1000.service", _USER)),
        (
            f"{_USER}/app.slice/taskqd.service",
            Unit("taskqd.service", f"{_USER}/app.slice/taskqd.service", 1000),
        ),
        (
            f"{_USER}/app.slice/app-gnome.slice/vte-spawn-1.scope",
            Unit("vte-spawn-1.scope", f"{_USER}/app.slice/app-gnome.slice/vte-spawn-1.scope", 1000),
        ),
    ],
)
def test_unit_is_the_innermost_of_the_control_group(cgroup: str, unit: Unit | None) -> None:
    assert unit_of(cgroup) == unit


def test_unit_has_its_control_group_and_those_below_it() -> None:
    unit = unit_of("/system.slice/taskqd.service")
    assert unit is not None
    assert unit.is_service
    assert unit.has("/system.slice/taskqd.service")
    assert unit.has("/system.slice/taskqd.service/runner")
    assert not unit.has("/system.slice/taskqd.service2")
    assert not unit.has("/system.slice/taskqd-runner.service")
    assert not unit.has("/system.slice")


@pytest.fixture(name="systemctl")
def a_systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the systemctl that PATH finds, which the test must write."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path / "systemctl"


def _write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


SYSTEM = Unit("taskqd.service", "/system.slice/taskqd.service")


@pytest.mark.parametrize(
    "unit, arguments",
    [
        (SYSTEM, "show --property=KillMode -- taskqd.service "),
        (
            Unit("x.service", f"{_USER}/x.service", 1000),
            "--user show --property=KillMode -- x.service /run/user/1000",
        ),
    ],
)
def test_kill_mode_is_asked_of_the_manager_of_the_unit(
    systemctl: Path, tmp_path: Path, unit: Unit, arguments: str
) -> None:
    _write(systemctl, f'echo "$* $XDG_RUNTIME_DIR" > {tmp_path}/arguments; echo KillMode=mixed')
    assert ask_kill_mode(unit) == "mixed"
    assert (tmp_path / "arguments").read_text() == f"{arguments}\n"


@pytest.mark.parametrize(
    "script, error",
    [
        ("echo first >&2; echo 'Failed to connect to bus' >&2; exit 1", "Failed to connect to bus"),
        ("exit 4", "systemctl has ended with 4"),
        ("echo KillMode=", "systemctl has ended with 0"),
        ("echo Something=else", "systemctl has ended with 0"),
    ],
)
def test_kill_mode_is_unknown_if_systemctl_does_not_tell_it(systemctl: Path, script: str, error: str) -> None:
    _write(systemctl, script)
    with pytest.raises(OSError, match=f"^{error}$"):
        ask_kill_mode(SYSTEM)


def test_kill_mode_is_unknown_if_systemctl_hangs_or_is_missing(
    systemctl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(systemctl, f"exec {sys.executable} -c 'import signal; signal.pause()'")
    monkeypatch.setattr(systemd_unit, "ASK_TIMEOUT", 0.05)
    with pytest.raises(OSError, match=r"^systemctl has not answered within 0\.05 s$"):
        ask_kill_mode(SYSTEM)
    systemctl.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="systemctl"):
        ask_kill_mode(SYSTEM)
