"""The units of etc/ and their drop-ins, checked by systemd's tools; no test starts them."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from taskqd.daemon.tap import Options

ETC = Path(__file__).parent.parent / "etc"
DAEMON, RUNNER = "taskqd.service", "taskqd-runner.service"
USER = "systemd-user/"
DROP_IN = "{}.d/run-as-owner.conf"
COMMAND = re.compile(r"(?:/opt/taskqd|%h/\.local/share/taskqd)/bin/(taskqd|taskqd-runner)(?= )")

KINDS = [pytest.param(False, id="own user"), pytest.param(True, id="run as owner")]
"""Whether the drop-ins are used."""
MAX_LEVELS = {(DAEMON, False): 2.0, (RUNNER, False): 4.0, (DAEMON, True): 2.0, (RUNNER, True): 6.0}
"""The limits of the exposure levels (1.7, 3.4, 1.7 and 5.3 by systemd 252)."""


def placed(directory: Path, has_drop_in: bool, folder: str = "") -> list[str]:
    """Return the paths of copies of both units, which start an existing program."""
    program = shutil.which("true")
    assert program is not None
    for unit in (DAEMON, RUNNER):
        for name in [unit, *([DROP_IN.format(unit)] if has_drop_in else [])]:
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(COMMAND.sub(program, (ETC / folder / name).read_text()))
    return [str(directory / name) for name in (DAEMON, RUNNER)]


def settings(name: str) -> dict[str, list[str]]:
    """Return the values of each key of a unit file, in order."""
    found: dict[str, list[str]] = {}
    for line in (ETC / name).read_text().replace("\\\n", " ").splitlines():
        key, sign, value = line.partition("=")
        if sign and not line.startswith(("#", "[")):
            found.setdefault(key, []).append(value)
    return found


def command(name: str) -> list[str]:
    """Return the words of the command of a unit or drop-in, without the directory of its program."""
    [text] = filter(None, settings(name)["ExecStart"])
    return shlex.split(COMMAND.sub(r"\1", text))


def options(name: str) -> Any:
    """Return the settings of the daemon that a unit or drop-in starts."""
    program, *words = command(name)
    assert program == "taskqd"
    parsed: Any = Options()
    parsed.parseOptions(words)
    return parsed.settings


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("has_drop_in", KINDS)
def test_units_pass_systemd_analyze_verify(tmp_path: Path, has_drop_in: bool) -> None:
    units = placed(tmp_path, has_drop_in)
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.needs("systemd-analyze")
def test_user_units_pass_systemd_analyze_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    units = placed(tmp_path, False, USER)
    words = ["systemd-analyze", "--user", "verify", *units]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("has_drop_in", KINDS)
def test_exposure_levels_of_the_units_are_limited(tmp_path: Path, has_drop_in: bool) -> None:
    words = ["systemd-analyze", "security", "--no-pager", "--offline=true", *placed(tmp_path, has_drop_in)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if "offline" in done.stderr:
        pytest.skip("this systemd-analyze is older than 250 and checks only installed units")
    levels = re.findall(r"Overall exposure level for ([\w-]+\.service): ([0-9.]+)", done.stdout)
    assert sorted(name for name, _ in levels) == sorted((DAEMON, RUNNER))
    too_high = [(name, level) for name, level in levels if float(level) > MAX_LEVELS[name, has_drop_in]]
    assert too_high == []


@pytest.mark.parametrize("name", [DAEMON, DROP_IN.format(DAEMON)])
def test_command_of_the_daemon_has_valid_options(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("taskqd.daemon.tap._refuse_if_in_use", lambda state: None)
    parsed = options(name)
    assert parsed.state == "/var/lib/taskqd"
    assert parsed.waits_for_runner
    assert parsed.run_as_owner is (name != DAEMON)
    assert parsed.runner_directory == (None if name == DAEMON else "/var/lib/taskqd-runner")


def test_command_of_the_user_daemon_waits_for_its_runner() -> None:
    assert options(USER + DAEMON).waits_for_runner


@pytest.mark.parametrize("folder", ["", USER], ids=["system", "user"])
def test_runner_stays_and_uses_the_state_of_the_daemon(folder: str) -> None:
    daemon = command(folder + DAEMON)
    state = daemon[daemon.index("--state") + 1]
    assert command(folder + RUNNER) == ["taskqd-runner", "--state", state, "--stay"]


@pytest.mark.parametrize("folder", ["", USER], ids=["system", "user"])
def test_daemon_starts_after_the_runner_and_may_be_stopped_without_it(folder: str) -> None:
    unit = settings(folder + DAEMON)
    assert unit["Wants"] == [RUNNER]
    assert RUNNER in unit["After"][0].split()
    bonds = {"Requires", "Requisite", "BindsTo", "PartOf", "Upholds", "Slice"}
    assert not bonds & (unit.keys() | settings(folder + RUNNER).keys())


@pytest.mark.parametrize("folder", ["", USER], ids=["system", "user"])
def test_stop_of_the_runner_signals_the_runner_alone_and_waits_for_its_jobs(folder: str) -> None:
    unit = settings(folder + RUNNER)
    assert unit["KillMode"] == ["mixed"]
    assert int(unit["TimeoutStopSec"][0]) >= 60
    assert unit["OOMPolicy"] == ["continue"]
    assert (unit["Restart"], unit["NotifyAccess"]) == (["always"], ["main"])


def test_both_units_have_one_user_and_one_state_directory() -> None:
    shared = ("User", "Group", "StateDirectory", "StateDirectoryMode")
    daemon, runner = settings(DAEMON), settings(RUNNER)
    assert [daemon.get(key) for key in shared] == [runner.get(key) for key in shared]
    assert daemon["StateDirectory"]


def test_drop_ins_make_only_the_runner_root_with_directories_that_are_its_own() -> None:
    daemon, runner = settings(DROP_IN.format(DAEMON)), settings(DROP_IN.format(RUNNER))
    assert not daemon.keys() & {"User", "Group", "CapabilityBoundingSet", "StateDirectory"}
    place = options(DROP_IN.format(DAEMON)).runner_directory
    [user], [group] = settings(DAEMON)["User"], settings(DAEMON)["Group"]
    assert (runner["User"], runner["Group"]) == (["root"], [group])
    assert command(DROP_IN.format(RUNNER)) == [
        *("taskqd-runner", "--daemon-user", user, "--directory", place, "--stay"),
    ]
    name = Path(place).name
    assert runner["StateDirectory"] == ["", f"{name} {name}.jobs"], "the first resets that of the unit"


def test_every_capability_of_the_runner_s_drop_in_has_a_comment() -> None:
    lines = (ETC / DROP_IN.format(RUNNER)).read_text().splitlines()
    rights = [number for number, line in enumerate(lines) if line.startswith("CapabilityBoundingSet=CAP_")]
    assert len(rights) == 6
    assert {lines[number - 1][:2] for number in rights} == {"# "}
