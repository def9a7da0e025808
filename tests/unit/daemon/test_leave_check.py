"""Whether running jobs outlive the daemon, by what /proc and systemd say."""

import re
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from taskqd.config.settings import OnStop
from taskqd.daemon.leave_check import (
    CGROUP_NAMESPACE,
    PID_NAMESPACE,
    LeaveCheck,
    find_obstacle,
    read_surroundings,
)
from taskqd.daemon.stop_request import StopRequests
from taskqd.daemon.systemd_unit import Unit
from tests.fakes.deferreds import result_of
from tests.support.leaks import LeakWatch

ETC = Path(__file__).parents[3] / "etc"
DAEMON, RUNNER = 40, 41
CONTAINER = "pid:[4026532201]"
CONTAINER_CGROUPS = "cgroup:[4026532202]"
SERVICE = "0::/system.slice/taskqd.service\n"
RUNNER_SERVICE = "0::/system.slice/taskqd-runner.service\n"
SESSION = "0::/user.slice/user-1000.slice/session-3.scope\n"


class Proc:
    """A proc(5) file system with the daemon, its runner and process 1."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write(
            daemon=SERVICE, runner=SERVICE, init="systemd", pid_ns=PID_NAMESPACE, cgroup_ns=CGROUP_NAMESPACE
        )

    def write(
        self,
        daemon: str | None = None,
        runner: str | None = None,
        init: str | None = None,
        pid_ns: str | None = None,
        cgroup_ns: str | None = None,
        pid: int = DAEMON,
    ) -> None:
        """Change what is given."""
        self._link("self", str(pid))
        self._write(f"{pid}/cgroup", daemon)
        self._write(f"{RUNNER}/cgroup", runner)
        self._write("1/comm", None if init is None else f"{init}\n")
        self._link(f"{pid}/ns/pid", pid_ns)
        self._link(f"{pid}/ns/cgroup", cgroup_ns)

    def remove(self, *names: str) -> None:
        for name in names:
            (self.root / name).unlink()

    def _write(self, name: str, text: str | None) -> None:
        if text is not None:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)

    def _link(self, name: str, target: str | None) -> None:
        if target is not None:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).unlink(missing_ok=True)
            (self.root / name).symlink_to(target)

    def obstacle(self, kill_mode: str | OSError = "mixed", runner: int | None = RUNNER) -> str | None:
        """Return the obstacle that is found if systemctl answers so, or fails."""
        self.asked: list[Unit] = []

        def ask(unit: Unit) -> str:
            self.asked.append(unit)
            if isinstance(kill_mode, OSError):
                raise kill_mode
            return kill_mode

        finding = find_obstacle(maybeDeferred, runner, str(self.root), ask)
        return result_of(Deferred.fromCoroutine(finding))


@pytest.fixture(name="proc")
def a_proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


# Containers.


def test_jobs_are_not_left_if_the_daemon_is_process_1(proc: Proc) -> None:
    proc.write(pid=1, daemon="0::/\n", init="twistd", pid_ns=CONTAINER, cgroup_ns=CONTAINER_CGROUPS)
    assert "the daemon is process 1" in str(proc.obstacle())
    assert proc.asked == []


@pytest.mark.parametrize("init", ["tini", "docker-init", "dumb-init", "sh", "init", "pause", "supervisord"])
def test_jobs_are_not_left_in_a_container_whose_process_1_is_not_systemd(proc: Proc, init: str) -> None:
    proc.write(daemon="0::/\n", runner="0::/\n", init=init, pid_ns=CONTAINER, cgroup_ns=CONTAINER_CGROUPS)
    assert f"whose process 1 is {init}, not systemd" in str(proc.obstacle())


def test_jobs_are_not_left_in_a_container_whose_process_1_is_hidden(proc: Proc) -> None:
    proc.write(daemon="0::/\n", runner="0::/\n", pid_ns=CONTAINER)
    proc.remove("1/comm")
    assert "whose process 1 is unknown, not systemd" in str(proc.obstacle())


@pytest.mark.parametrize("daemon, can_leave", [(SESSION, True), ("0::/\n", True), (SERVICE, False)])
def test_container_with_systemd_is_like_a_machine(proc: Proc, daemon: str, can_leave: bool) -> None:
    proc.write(daemon=daemon, runner=daemon, init="systemd", pid_ns=CONTAINER, cgroup_ns=CONTAINER_CGROUPS)
    assert (proc.obstacle() is None) is can_leave


@pytest.mark.parametrize(
    "cgroup_ns, cgroup",
    [
        (CONTAINER_CGROUPS, "0::/\n"),
        (CGROUP_NAMESPACE, "1:name=systemd:/docker/0123abc\n"),
        (CGROUP_NAMESPACE, "0::/system.slice/docker-0123abc.scope\n"),
        (CGROUP_NAMESPACE, "0::/machine.slice/libpod-0123abc.scope/container\n"),
        (CGROUP_NAMESPACE, "0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope\n"),
        (CGROUP_NAMESPACE, "1:name=systemd:/kubepods/besteffort/pod1/1\n"),
        (CGROUP_NAMESPACE, "0::/lxc/web\n"),
    ],
)
def test_jobs_are_not_left_in_a_container_with_the_pid_namespace_of_the_machine(
    proc: Proc, cgroup_ns: str, cgroup: str
) -> None:
    proc.write(daemon=cgroup, runner=cgroup, cgroup_ns=cgroup_ns)
    assert "a container with the PID namespace of the machine" in str(proc.obstacle())


@pytest.mark.parametrize("init", ["systemd", "init", "runit", "openrc-init", "s6-svscan", "busybox"])
def test_jobs_are_left_on_a_machine_outside_of_services_with_any_process_1(proc: Proc, init: str) -> None:
    for cgroup in ("0::/\n", "1:name=openrc:/taskqd\n0::/\n", "", SESSION):
        proc.write(daemon=cgroup, runner=cgroup, init=init)
        assert proc.obstacle() is None
        assert proc.obstacle(runner=None) is None
        assert proc.asked == []


def test_jobs_are_left_on_a_kernel_without_namespaces_and_control_groups(proc: Proc) -> None:
    proc.remove(f"{DAEMON}/ns/pid", f"{DAEMON}/ns/cgroup", f"{DAEMON}/cgroup", f"{RUNNER}/cgroup")
    assert proc.obstacle() is None


def test_jobs_are_left_in_the_service_of_a_container_engine_itself(proc: Proc) -> None:
    cgroup = "0::/system.slice/docker.service\n"
    proc.write(daemon=cgroup, runner=cgroup)
    assert proc.obstacle("process") is None


# Units.

V1_DAEMON = "7:cpu,cpuacct:/\n1:name=systemd:/system.slice/taskqd.service\n"
V1_RUNNER = "7:cpu,cpuacct:/\n1:name=systemd:/system.slice/taskqd-runner.service\n"
USER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice"


@pytest.mark.parametrize(
    "daemon, runner",
    [
        (SERVICE, RUNNER_SERVICE),
        (V1_DAEMON, V1_RUNNER),
        (f"{USER}/taskqd.service\n", f"{USER}/taskqd-runner.service\n"),
        (SERVICE, SESSION),
        (SESSION, SESSION),
        (SESSION, SERVICE),
        ("0::/system.slice/run-u7.scope\n", "0::/system.slice/run-u7.scope\n"),
        (f"{USER}/app-org.gnome.Terminal.slice/vte-spawn-1.scope\n", f"{USER}/vte-spawn-1.scope\n"),
    ],
)
def test_jobs_are_left_if_no_service_has_both_daemon_and_runner(proc: Proc, daemon: str, runner: str) -> None:
    proc.write(daemon=daemon, runner=runner)
    assert proc.obstacle("control-group") is None
    assert proc.asked == []


@pytest.mark.parametrize(
    "daemon, runner, name",
    [
        (SERVICE, SERVICE, "taskqd.service"),
        (V1_DAEMON, V1_DAEMON, "taskqd.service"),
        (SERVICE.rstrip() + "/daemon\n", SERVICE.rstrip() + "/runner\n", "taskqd.service"),
        (
            "0::/system.slice/supervisor.service\n",
            "0::/system.slice/supervisor.service\n",
            "supervisor.service",
        ),
        (f"{USER}/taskqd.service\n", f"{USER}/taskqd.service\n", "taskqd.service"),
    ],
)
@pytest.mark.parametrize("kill_mode", ["control-group", "mixed", "process", "none"])
def test_jobs_in_the_service_of_the_daemon_are_left_only_if_its_kill_mode_spares_them(
    proc: Proc, daemon: str, runner: str, name: str, kill_mode: str
) -> None:
    proc.write(daemon=daemon, runner=runner)
    obstacle = proc.obstacle(kill_mode)
    assert [unit.name for unit in proc.asked] == [name]
    if kill_mode in ("process", "none"):
        assert obstacle is None
    else:
        assert str(obstacle).startswith(
            f"{name} has both the daemon and the runner, and KillMode={kill_mode}; "
        )


def test_runner_that_the_daemon_will_start_is_in_its_service(proc: Proc) -> None:
    assert "KillMode=mixed" in str(proc.obstacle(runner=None))


def test_runner_whose_control_group_is_hidden_may_be_in_the_service_of_the_daemon(proc: Proc) -> None:
    proc.remove(f"{RUNNER}/cgroup")
    assert "KillMode=mixed" in str(proc.obstacle())


def test_jobs_are_not_left_if_the_kill_mode_is_unknown(proc: Proc) -> None:
    obstacle = proc.obstacle(OSError("Failed to connect to bus"))
    assert "its KillMode is unknown: Failed to connect to bus; start the runner by" in str(obstacle)


def test_jobs_are_not_left_by_the_unit_of_version_0_6_without_a_unit_for_the_runner(proc: Proc) -> None:
    [kill_mode] = re.findall(r"^KillMode=(.*)$", (ETC / "taskqd.service").read_text(), re.MULTILINE)
    assert kill_mode == "mixed"
    assert "taskqd.service has both the daemon and the runner" in str(proc.obstacle(kill_mode, runner=None))
    proc.write(runner=RUNNER_SERVICE)
    assert proc.obstacle(kill_mode) is None


def test_surroundings_of_this_process_can_be_read() -> None:
    here = read_surroundings()
    assert (here.pid > 1, here.cgroup.startswith("/")) == (True, True)
    assert here.pid_namespace is None or here.pid_namespace.startswith("pid:[")


# What is done with an obstacle.


class Check:
    """A LeaveCheck whose obstacles the test fires."""

    def __init__(self, on_stop: OnStop = OnStop.LEAVE) -> None:
        self.requests = StopRequests(on_stop)
        self.found: list[tuple[int | None, Deferred[str | None]]] = []
        self.check = LeaveCheck(self.requests, self._find)

    async def _find(self, runner_pid: int | None) -> str | None:
        self.found.append((runner_pid, Deferred()))
        return await self.found[-1][1]


def test_check_sets_the_obstacle_and_logs_it_once(caplog: pytest.LogCaptureFixture) -> None:
    one = Check()
    assert one.check.finished().called
    for _ in range(2):
        one.check.start(5)
        assert not one.check.finished().called
        one.found[-1][1].callback("KillMode=mixed; do this")
        assert one.check.finished().called
    assert one.requests.obstacle == "KillMode=mixed; do this"
    assert caplog.text.count("on-stop = leave cannot be done") == 1
    assert "since KillMode=mixed; do this" in caplog.text
    one.check.start(6)
    one.found[-1][1].callback(None)
    assert one.requests.obstacle is None
    assert "a stop leaves running jobs" in caplog.text


def test_checks_run_one_after_the_other_so_that_the_last_runner_counts() -> None:
    one = Check()
    one.check.start(None)
    one.check.start(7)
    assert [runner for runner, _ in one.found] == [None]
    one.found[0][1].callback("of the first")
    assert [runner for runner, _ in one.found] == [None, 7]
    assert not one.check.finished().called
    one.found[1][1].callback(None)
    assert (one.requests.obstacle, one.check.finished().called) == (None, True)


@pytest.mark.parametrize("on_stop", [OnStop.INTERRUPT, OnStop.REQUEUE])
def test_obstacle_is_not_logged_if_a_stop_ends_jobs_anyway(
    on_stop: OnStop, caplog: pytest.LogCaptureFixture
) -> None:
    one = Check(on_stop)
    one.check.start(5)
    one.found[-1][1].callback("tini")
    assert (one.requests.obstacle, caplog.text) == ("tini", "")


def test_check_that_fails_is_logged_and_the_next_one_still_runs(
    caplog: pytest.LogCaptureFixture, logged_errors: LeakWatch
) -> None:
    one = Check()
    one.check.start(5)
    one.found[-1][1].errback(RuntimeError("a bug"))
    assert one.check.finished().called
    assert len(logged_errors.flush(RuntimeError)) == 1
    assert "whether jobs outlive a stop is unknown" in caplog.text
    assert "internal error" in str(one.requests.obstacle)
    one.check.start(6)
    one.found[-1][1].callback("tini")
    assert one.requests.obstacle == "tini"
