"""The resource limits of jobs as commands of their shell: those of the daemon that the runner lacks.

A runner may have been started by another daemon, in a shell or a unit with other limits. The builtin ulimit
costs no exec; it has letters for some of the limits only (dash(1)), and an ordinary user can raise no hard
limit.
"""

import resource
from collections.abc import Mapping

Limits = Mapping[int, tuple[int, int]]
"""The soft and the hard limit of resources by their number, -1 for none (getrlimit(2))."""

_LETTERS = {
    resource.RLIMIT_CORE: ("c", 512),
    resource.RLIMIT_CPU: ("t", 1),
    resource.RLIMIT_DATA: ("d", 1024),
    resource.RLIMIT_FSIZE: ("f", 512),
    resource.RLIMIT_MEMLOCK: ("l", 1024),
    resource.RLIMIT_NOFILE: ("n", 1),
    resource.RLIMIT_NPROC: ("p", 1),
    resource.RLIMIT_STACK: ("s", 1024),
    resource.RLIMIT_AS: ("v", 1024),
}
"""The option of ulimit for a resource, and its unit in bytes."""


def own_limits() -> dict[int, tuple[int, int]]:
    """Return the limits of this process that a shell can set."""
    return {number: resource.getrlimit(number) for number in _LETTERS}


def limit_commands(wanted: Limits, inherited: Limits) -> dict[int, str]:
    """Return the commands that make ``inherited`` limits the ``wanted`` ones, by resource."""
    commands = {}
    for number, (soft, hard) in wanted.items():
        if number not in inherited or inherited[number] == (soft, hard):
            continue
        letter, unit = _LETTERS[number]
        before = inherited[number]
        command = ""
        if soft != before[0]:
            command += f"ulimit -S -{letter} {_amount(soft, unit)} 2>/dev/null; "
        if hard != before[1]:
            command += f"ulimit -H -{letter} {_amount(hard, unit)} 2>/dev/null; "
        commands[number] = command
    return commands


def _amount(limit: int, unit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit // unit)
