"""The systemd unit of a process, by its control group (cgroups(7)), and what a stop of the unit kills.

systemd keeps the processes of a service in the control group ``…/NAME.service``, those of a login or of a
container in ``…/NAME.scope``. A unit of a user's manager is below the group of ``user@UID.service``.
"""

import os
import re
import subprocess
from typing import NamedTuple

ASK_TIMEOUT = 3.0
"""Seconds that systemctl may take: it answers within milliseconds unless systemd hangs."""

_USER_MANAGER = re.compile(r"user@(\d+)\.service")


class Unit(NamedTuple):
    """A unit with processes. ``manager_uid`` is the user whose systemd manages it, None for the machine's."""

    name: str
    cgroup: str
    manager_uid: int | None = None

    @property
    def is_service(self) -> bool:
        """Whether it ends with its main process; a scope does not."""
        return self.name.endswith(".service")

    def has(self, cgroup: str) -> bool:
        """Whether the processes of a control group belong to it."""
        return f"{cgroup}/".startswith(f"{self.cgroup}/")


def cgroup_of(text: str) -> str:
    """Return the control group by which systemd knows a process; ``text`` is its /proc/PID/cgroup.

    In version 1 that is the one of the hierarchy ``name=systemd``, in version 2 there is only one. Without
    systemd it is that of version 2, or the root.
    """
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        found[controllers] = path.removesuffix(" (deleted)")
    return found.get("name=systemd", found.get("", "/"))


def unit_of(cgroup: str) -> Unit | None:
    """Return the innermost unit of a control group; None if it has none."""
    names = cgroup.split("/")
    for index in range(len(names) - 1, -1, -1):
        if names[index].endswith((".service", ".scope")):
            managers = filter(None, map(_USER_MANAGER.fullmatch, names[:index]))
            uid = next((int(manager[1]) for manager in managers), None)
            return Unit(names[index], "/".join(names[: index + 1]), uid)
    return None


def ask_kill_mode(unit: Unit) -> str:
    """Return the KillMode of a unit (systemd.kill(5)); blocks. Raises OSError if it is unknown."""
    command = ["systemctl", "show", "--property=KillMode", "--", unit.name]
    environment = dict(os.environ)
    if unit.manager_uid is not None:
        command.insert(1, "--user")
        environment.setdefault("XDG_RUNTIME_DIR", f"/run/user/{unit.manager_uid}")
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_TIMEOUT,
            check=False,
            text=True,
            errors="replace",
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"systemctl has not answered within {ASK_TIMEOUT:g} s") from None
    name, _, mode = done.stdout.strip().partition("=")
    if name == "KillMode" and mode:
        return mode
    error = done.stderr.strip().splitlines()
    raise OSError(error[-1] if error else f"systemctl has ended with {done.returncode}")
