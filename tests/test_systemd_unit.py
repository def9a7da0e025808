"""etc/taskqd.service and its drop-in, checked by systemd's tools."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from taskqd.daemon.tap import Options

ETC = Path(__file__).parent.parent / "etc"
DROP_IN = "taskqd.service.d/run-as-owner.conf"
PROGRAM = "/opt/taskqd/bin/twistd"

UNITS = [pytest.param(False, 4.0, id="own user"), pytest.param(True, 6.0, id="run as owner")]
"""Whether the drop-in is used, and the limit of the exposure level (3.4 and 5.3 by systemd 252)."""


def placed(directory: Path, has_drop_in: bool) -> Path:
    """Return a copy of the unit that starts an existing program."""
    program = shutil.which("true")
    assert program is not None
    for name in ["taskqd.service", *([DROP_IN] if has_drop_in else [])]:
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text((ETC / name).read_text().replace(PROGRAM, program))
    return directory / "taskqd.service"


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("has_drop_in, _", UNITS)
def test_unit_passes_systemd_analyze_verify(tmp_path: Path, has_drop_in: bool, _: float) -> None:
    unit = placed(tmp_path, has_drop_in)
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("has_drop_in, max_level", UNITS)
def test_exposure_level_of_the_unit_is_limited(tmp_path: Path, has_drop_in: bool, max_level: float) -> None:
    unit = str(placed(tmp_path, has_drop_in))
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", unit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "offline" in done.stderr:
        pytest.skip("this systemd-analyze is older than 250 and checks only installed units")
    [level] = re.findall(r"Overall exposure level for taskqd\.service: ([0-9.]+)", done.stdout)
    assert float(level) <= max_level


@pytest.mark.parametrize("name", ["taskqd.service", DROP_IN])
def test_command_of_the_unit_has_valid_options(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text = (ETC / name).read_text().replace("\\\n", " ")
    [command] = [words for words in re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE) if words]
    program, *words = shlex.split(command)
    assert program == PROGRAM
    monkeypatch.setattr("taskqd.daemon.tap._refuse_if_in_use", lambda state: None)
    options: Any = Options()
    options.parseOptions(words[words.index("taskq") + 1 :])
    assert options.settings.state == "/var/lib/taskqd"
    assert options.settings.run_as_owner is (name == DROP_IN)


def test_every_capability_of_the_drop_in_has_a_comment() -> None:
    lines = (ETC / DROP_IN).read_text().splitlines()
    rights = [number for number, line in enumerate(lines) if line.startswith("CapabilityBoundingSet=CAP_")]
    assert len(rights) == 6
    assert {lines[number - 1][:2] for number in rights} == {"# "}
