"""The limits of users, as pam_limits reads the same lines."""

import os
import resource
import subprocess
from pathlib import Path

import pytest

from taskqd.execution import user_limits
from taskqd.execution.user_limits import UserLimits
from taskqd.execution.users import User

ADA = User("ada", 1000, 100, "/home/ada")
GROUPS = {"users": 100, "staff": 50, "wheel": 10}
INFINITE = resource.RLIM_INFINITY


class Machine:
    """A directory of limits; ada is in the groups users (her primary one) and staff."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "limits.d").mkdir()
        self.asked: list[str] = []
        self.current = {resource.RLIMIT_NOFILE: (1024, 4096)}
        self.limits = UserLimits(
            str(directory),
            lambda number: self.current.get(number, (INFINITE, INFINITE)),
            lambda _: frozenset({100, 50}),
            self._gid,
        )

    def _gid(self, name: str) -> int | None:
        self.asked.append(name)
        return GROUPS.get(name)

    def write(self, text: str, name: str = "limits.conf") -> None:
        (self.directory / name).write_text(text)

    def options(self, text: str) -> list[str]:
        self.write(text)
        return self.limits.prlimit_options(ADA)


@pytest.fixture(name="machine")
def a_machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


LINES: list[tuple[str, list[str]]] = [
    ("", []),
    ("# a comment\n\n   \n", []),
    ("ada - nofile 100", ["--nofile=100:100"]),
    ("  ada\t-  nofile   100   # why", ["--nofile=100:100"]),
    ("ada#x - nofile 100", []),
    ("ada - nofile 100 and more", ["--nofile=100:100"]),
    ("ada - nofile", []),
    ("ada nofile 100", []),
    ("ada SOFT NoFile 100", ["--nofile=100:4096"]),
    ("ada soft nofile 100", ["--nofile=100:4096"]),
    ("ada hard nofile 2000", ["--nofile=1024:2000"]),
    ("ada hard nofile 100", ["--nofile=100:100"]),
    ("ada soft nofile 5000", ["--nofile=4096:4096"]),
    ("ada both nofile 100", []),
    ("ada - nofile 100x", ["--nofile=100:100"]),
    ("ada - nofile many", []),
    ("ada - nofiles 100", []),
    ("ben - nofile 100", []),
    # Units.
    ("ada - cpu 2", ["--cpu=120:120"]),
    ("ada - as 1024", ["--as=1048576:1048576"]),
    ("ada - core 0", ["--core=0:0"]),
    ("ada - data 1", ["--data=1024:1024"]),
    ("ada - fsize 1", ["--fsize=1024:1024"]),
    ("ada - memlock 1", ["--memlock=1024:1024"]),
    ("ada - rss 1", ["--rss=1024:1024"]),
    ("ada - stack 1", ["--stack=1024:1024"]),
    ("ada - locks 7", ["--locks=7:7"]),
    ("ada - msgqueue 7", ["--msgqueue=7:7"]),
    ("ada - nproc 7", ["--nproc=7:7"]),
    ("ada - rtprio 7", ["--rtprio=7:7"]),
    ("ada - rttime 7", ["--rttime=7:7"]),
    ("ada - sigpending 7", ["--sigpending=7:7"]),
    ("ada - nice 5", ["--nice=15:15"]),
    ("ada - nice -5", ["--nice=25:25"]),
    ("ada - nice -1", ["--nice=21:21"]),
    ("ada - nice -99", ["--nice=40:40"]),
    ("ada - nice 99", ["--nice=1:1"]),
    ("ada - nice -", []),
    # No limit.
    *(
        (f"ada - nproc {word}", ["--nproc=unlimited:unlimited"])
        for word in ("-1", "-", "unlimited", "Infinity")
    ),
    ("ada - cpu -7", ["--cpu=unlimited:unlimited"]),
    ("ada - as 99999999999999999999", ["--as=unlimited:unlimited"]),
    ("ada hard nproc 9\nada soft nproc -1", ["--nproc=9:9"]),
    ("ada - nofile unlimited", ["--nofile=1048576:1048576"]),
    # Items about logins, and texts that are no limit, are ignored.
    ("ada - maxlogins 1\nada - maxsyslogins 1\nada - priority 5\nada - nonewprivs 1\nada - chroot /x", []),
    # Domains.
    ("* - nproc 1", ["--nproc=1:1"]),
    ("@users - nproc 1", ["--nproc=1:1"]),
    ("@staff - nproc 1", ["--nproc=1:1"]),
    ("@wheel - nproc 1", []),
    ("@others - nproc 1", []),
    ("%users - nproc 1", []),
    ("1000:1000 - nproc 1", ["--nproc=1:1"]),
    ("1000: - nproc 1", ["--nproc=1:1"]),
    ("1001: - nproc 1", []),
    ("500:999 - nproc 1", []),
    (":1000 - nproc 1", ["--nproc=1:1"]),
    (":1001 - nproc 1", []),
    (": - nproc 1", []),
    ("1000:x - nproc 1", []),
    ("@100:200 - nproc 1", ["--nproc=1:1"]),
    ("@50:60 - nproc 1", []),
    ("@50: - nproc 1", ["--nproc=1:1"]),
    ("@:50 - nproc 1", ["--nproc=1:1"]),
    ("@:10 - nproc 1", []),
    ("@: - nproc 1", []),
    # Precedence.
    ("ada - nproc 1\nada - nproc 2", ["--nproc=2:2"]),
    ("ada - nproc 1\n* - nproc 2\n@users - nproc 3", ["--nproc=1:1"]),
    ("* - nproc 2\n@users - nproc 3\nada - nproc 1", ["--nproc=1:1"]),
    ("@users - nproc 3\n* - nproc 2", ["--nproc=3:3"]),
    ("@users - nproc 3\n1000: - nproc 2", ["--nproc=2:2"]),
    ("ada soft nproc 1\n* hard nproc 2", ["--nproc=1:2"]),
    ("ada soft nproc 1\n* - nproc 2", ["--nproc=1:unlimited"]),
    ("ada hard nproc 1\n* - nproc 2", ["--nproc=1:1"]),
    ("* - nproc 5\n* - cpu 1\nada - core 0", ["--core=0:0", "--cpu=60:60", "--nproc=5:5"]),
    # Exemptions.
    ("* - nproc 1\nada -\nada - cpu 1", []),
    ("* - nproc 1\n@staff -", []),
    ("* - nproc 1\n1000: -", []),
    ("* - nproc 1\n@wheel -\nben -\n* -\n%users -\n:1 -", ["--nproc=1:1"]),
]


@pytest.mark.parametrize("text, options", LINES)
def test_prlimit_options_are_those_of_pam_limits(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, text: str, options: list[str]
) -> None:
    (machine.directory / "nr_open").write_text("1048576\n")
    monkeypatch.setattr(user_limits, "NR_OPEN", str(machine.directory / "nr_open"))
    assert machine.options(text) == options


def test_unlimited_nofile_without_nr_open_is_unlimited(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_limits, "NR_OPEN", str(machine.directory / "nothing"))
    assert machine.options("ada - nofile unlimited") == ["--nofile=unlimited:unlimited"]


def test_files_of_limits_d_are_read_last_in_name_order(machine: Machine) -> None:
    machine.write("ada - nproc 1\n")
    machine.write("ada - nproc 3\n", "limits.d/90.conf")
    machine.write("ada - nproc 2\n", "limits.d/10.conf")
    for name in ("99.conf.bak", ".99.conf", "99"):
        machine.write("ada - nproc 9\n", f"limits.d/{name}")
    assert machine.limits.prlimit_options(ADA) == ["--nproc=3:3"]


def test_machine_without_files_has_no_limits(tmp_path: Path) -> None:
    assert UserLimits(str(tmp_path / "nothing")).prlimit_options(ADA) == []


def test_unreadable_file_is_an_error(machine: Machine) -> None:
    (machine.directory / "limits.conf").mkdir()
    with pytest.raises(IsADirectoryError):
        machine.limits.prlimit_options(ADA)


def test_files_are_read_again_only_after_a_change(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    lines = user_limits._lines

    def count(path: str) -> object:
        read.append(os.path.basename(path))
        return lines(path)

    monkeypatch.setattr(user_limits, "_lines", count)
    assert machine.options("ada - nproc 1") == ["--nproc=1:1"]
    assert machine.limits.prlimit_options(ADA) == ["--nproc=1:1"]
    assert read == ["limits.conf"]
    assert machine.options("ada - nproc 22") == ["--nproc=22:22"]
    machine.write("ada - nproc 3", "limits.d/a.conf")
    assert machine.limits.prlimit_options(ADA) == ["--nproc=3:3"]
    (machine.directory / "limits.d" / "a.conf").unlink()
    assert machine.limits.prlimit_options(ADA) == ["--nproc=22:22"]
    (machine.directory / "limits.conf").unlink()
    assert machine.limits.prlimit_options(ADA) == []


def test_groups_are_looked_up_only_for_lines_with_a_group(machine: Machine) -> None:
    machine.options("ada - nproc 1\n* - cpu 1")
    assert machine.asked == []
    machine.options("@staff - nproc 1")
    assert machine.asked == ["staff"]


@pytest.mark.needs("prlimit")
def test_prlimit_accepts_every_option(machine: Machine) -> None:
    """Set to their current values, which needs no rights of root."""
    soft = {number: resource.getrlimit(number) for _, (number, _) in sorted(user_limits._ITEMS.items())}
    limits = UserLimits(str(machine.directory))
    machine.write("".join(f"ada soft {item} unlimited\n" for item in user_limits._ITEMS if item != "nice"))
    options = limits.prlimit_options(ADA)
    assert len(options) == len(soft) - 1
    assert subprocess.run(["prlimit", *options, "--", "true"], check=False).returncode == 0
