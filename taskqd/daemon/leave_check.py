"""Checks that running jobs can outlive the daemon: that the system does not kill their runner with it.

The system does so if process 1 of a container ends, as the daemon or with it, or if systemd stops a unit that
has both. A stop leaves jobs only if neither can happen; otherwise it ends them after their grace period.
"""

import os
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from taskqd.config.settings import OnStop
from taskqd.daemon.stop_request import StopRequests
from taskqd.daemon.systemd_unit import Unit, ask_kill_mode, cgroup_of, unit_of
from taskqd.storage.interfaces import InThread

PID_NAMESPACE = "pid:[4026531836]"
"""The machine's PID namespace, which the kernel has made at its start (PROC_PID_INIT_INO)."""
CGROUP_NAMESPACE = "cgroup:[4026531835]"
"""The machine's cgroup namespace (PROC_CGROUP_INIT_INO)."""
SPARING_KILL_MODES = ("process", "none")
"""Values of KillMode with which a stop of a unit kills its main process at most."""
ADVICE = "start the runner by taskqd-runner.service, or set KillMode=process in {unit}"
"""How to have the runner spared, though a unit has it and the daemon."""

_CONTAINER = re.compile(r"/(docker|libpod|containerd|cri-containerd|crio|kubepods|lxc)\b(?!\.service)")
"""A control group that a container engine has made."""


class Surroundings(NamedTuple):
    """The daemon's place in the system: its ``pid``, namespaces and control group, and who is process 1.

    A namespace is None if the kernel has no such namespaces. ``init`` is the name of process 1, None if it is
    hidden.
    """

    pid: int
    pid_namespace: str | None
    cgroup_namespace: str | None
    init: str | None
    cgroup: str


def read_surroundings(proc: str = "/proc") -> Surroundings:
    """Read the surroundings of this process from a proc(5) file system."""
    return Surroundings(
        int(os.readlink(f"{proc}/self")),
        _read_link(f"{proc}/self/ns/pid"),
        _read_link(f"{proc}/self/ns/cgroup"),
        _read(f"{proc}/1/comm"),
        read_cgroup("self", proc) or "/",
    )


def read_cgroup(pid: int | str, proc: str = "/proc") -> str | None:
    """Return the control group of a process; None if it is unknown."""
    text = _read(f"{proc}/{pid}/cgroup")
    return None if text is None else cgroup_of(text)


def container_obstacle(here: Surroundings) -> str | None:
    """Return why the runner would not outlive the container of the daemon; None if it would."""
    if here.pid == 1:
        return (
            "the daemon is process 1 of its PID namespace, whose processes the kernel kills when it ends; "
            "run it in a container whose process 1 is systemd, or outside of containers"
        )
    if here.pid_namespace not in (None, PID_NAMESPACE):
        if here.init == "systemd":
            return None
        init = "unknown" if here.init is None else here.init
        return (
            f"the daemon is in a container whose process 1 is {init}, not systemd, and may end with the "
            "daemon; then the kernel kills all processes. Run the daemon in a container whose process 1 is "
            "systemd, or outside of containers"
        )
    if here.cgroup_namespace not in (None, CGROUP_NAMESPACE) or _CONTAINER.search(here.cgroup):
        return (
            "the daemon is in a container with the PID namespace of the machine, and the end of the "
            "container kills its processes; run the daemon outside of containers"
        )
    return None


def killing_unit(here: Surroundings, runner_cgroup: str | None) -> Unit | None:
    """Return the service whose stop may kill the runner with the daemon; None if there is none.

    ``runner_cgroup`` is None if it is unknown, or the daemon is going to start the runner.
    """
    unit = unit_of(here.cgroup)
    if unit is None or not unit.is_service:
        return None
    return unit if runner_cgroup is None or unit.has(runner_cgroup) else None


async def find_obstacle(
    in_thread: InThread,
    runner_pid: int | None,
    proc: str = "/proc",
    ask: Callable[[Unit], str] = ask_kill_mode,
) -> str | None:
    """Return why the runner would not outlive the daemon, and what to do; None if it would.

    ``runner_pid`` is None if the daemon is going to start the runner. ``proc`` is a proc(5) file system;
    ``ask`` returns the KillMode of a unit, and blocks.
    """
    here = read_surroundings(proc)
    obstacle = container_obstacle(here)
    if obstacle is not None:
        return obstacle
    unit = killing_unit(here, None if runner_pid is None else read_cgroup(runner_pid, proc))
    if unit is None:
        return None
    advice = ADVICE.format(unit=unit.name)
    try:
        kill_mode = await in_thread(ask, unit)
    except OSError as why:
        return f"{unit.name} has both the daemon and the runner, and its KillMode is unknown: {why}; {advice}"
    if kill_mode in SPARING_KILL_MODES:
        return None
    return f"{unit.name} has both the daemon and the runner, and KillMode={kill_mode}; {advice}"


class LeaveCheck:
    """Keeps ``requests.obstacle`` true for the runner of the daemon, and logs it if jobs are to be left."""

    _log = Logger()

    def __init__(
        self, requests: StopRequests, find_obstacle: Callable[[int | None], Coroutine[Any, Any, str | None]]
    ) -> None:
        self._requests = requests
        self._find_obstacle = find_obstacle
        self._checked: Deferred[None] = succeed(None)

    def start(self, runner_pid: int | None) -> None:
        """Begin to check for a runner, None for one that the daemon is going to start."""
        self._checked = Deferred.fromCoroutine(self._check(runner_pid, self._checked))
        self._checked.addErrback(self._on_failure)

    def finished(self) -> "Deferred[None]":
        """Return a Deferred that fires when all checks have ended; its result must not be changed."""
        return self._checked

    async def _check(self, runner_pid: int | None, previous: "Deferred[None]") -> None:
        await previous
        self._set(await self._find_obstacle(runner_pid))

    def _on_failure(self, failure: Failure) -> None:
        self._log.failure("internal error: whether jobs outlive a stop is unknown", failure)
        self._set("an internal error, which this log has; report it")

    def _set(self, obstacle: str | None) -> None:
        before, self._requests.obstacle = self._requests.obstacle, obstacle
        if self._requests.on_stop is not OnStop.LEAVE or obstacle == before:
            return
        if obstacle is None:
            self._log.info("on-stop = leave: a stop leaves running jobs")
        else:
            self._log.warn(
                "on-stop = leave cannot be done: a stop ends running jobs after stop-grace, since {why}",
                why=obstacle,
            )


def _read(path: str) -> str | None:
    with suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().rstrip("\n")
    return None


def _read_link(path: str) -> str | None:
    with suppress(OSError):
        return os.readlink(path)
    return None
