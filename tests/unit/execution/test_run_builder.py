"""Runs built from jobs, a real spool, and users."""

import errno
import os
import pwd
import resource
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskqd.execution import run_builder
from taskqd.execution.command_line import command_line, process_environment
from taskqd.execution.messages import Base
from taskqd.execution.run import CannotStart, Owner, Run
from taskqd.execution.run_as import RunAs
from taskqd.execution.run_builder import PATH, RunBuilder, daemon_user_environment
from taskqd.execution.start_message import make_start
from taskqd.execution.user_limits import UserLimits
from taskqd.execution.users import User, Users
from taskqd.model.environment import environment_of
from taskqd.model.job import Attempt, Job
from taskqd.model.spec import Spec
from taskqd.storage.filesystem import Filesystem
from taskqd.storage.spool.runner_files import RunnerFiles
from taskqd.storage.spool.spool import Spool
from taskqd.storage.spool.user_files import PROGRESS, UserFiles
from tests.fakes.clocks import START, clock, in_thread
from tests.support import other_users

WORD = "00c0ffee00c0ffee"


class Harness:
    """A builder over a real spool, for jobs of ada, who is the current user under another name."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        self.user_files = UserFiles(str(place / "state.jobs"))
        self.spool = Spool(str(place / "state"), Filesystem(), in_thread, self.user_files)
        self.spool.open()
        (place / "security").mkdir()
        self.users = Users(clock().seconds)
        self.ada = User("ada", os.geteuid(), os.getegid(), "/home/ada")
        monkeypatch.setattr(self.users, "find", lambda name: self.ada if name == "ada" else None)
        self.run_as = RunAs(False, self.users, UserLimits(str(place / "security")))
        self.base = Base()

    def make(self, attempt: int = 1, command: str = "", **spec: Any) -> Run:
        job = Job(id=7, command=command, spec=Spec(**spec), owner="ada", submitted_at=START)
        return self.made(job, attempt)

    def made(self, job: Job, attempt: int = 1) -> Run:
        return self.builder().build(job, attempt, WORD)

    def builder(self, address: Callable[[bool], str | None] = lambda _: None) -> RunBuilder:
        return RunBuilder(
            self.spool, "store", self.run_as, self.user_files, None, address, base=lambda: self.base
        )

    def as_owner(self) -> None:
        """Run jobs as their owners from now on."""
        self.run_as.is_owner = True
        self.user_files.open()
        self.ada = self.ada._replace(uid=os.geteuid() or 1)

    def kept(self, name: str, content: bytes, mode: int = 0o600, job_id: int = 7) -> Path:
        """Store a block in the spool."""
        path = Path(self.spool.path(job_id, name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path


@pytest.fixture(name="harness")
def a_harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    with other_users.open_place() as place:
        harness = Harness(place, monkeypatch)
        yield harness
        harness.user_files.close()


# As the daemon's user.


def test_base_environment_is_small_and_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    me = pwd.getpwall()[0]
    monkeypatch.setattr(os, "geteuid", lambda: me.pw_uid)
    made = daemon_user_environment()
    assert made == {
        "PATH": run_builder.search_path(),
        "HOME": me.pw_dir,
        "LANG": "de_DE.UTF-8",
        "USER": me.pw_name,
        "SHELL": "/bin/sh",
    }
    monkeypatch.delenv("LANG")
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    made = daemon_user_environment()
    assert (made["HOME"], made["USER"], made["LANG"]) == ("/", "4000000", "C.UTF-8")


@pytest.mark.parametrize("place", ["python", "argv"])
def test_search_path_ends_with_the_directory_of_taskq(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    for name in ("python", "argv"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "executable", f"{tmp_path}/python/python3")
    monkeypatch.setattr(sys, "argv", [f"{tmp_path}/argv/twistd"])
    assert run_builder.search_path() == PATH
    (tmp_path / place / "taskq").write_text("#!/bin/sh\n")
    assert run_builder.search_path() == PATH
    (tmp_path / place / "taskq").chmod(0o755)
    assert run_builder.search_path() == f"{PATH}:{tmp_path}/{place}"
    monkeypatch.setattr(run_builder, "PATH", f"/bin:{tmp_path}/{place}")
    assert run_builder.search_path() == run_builder.PATH


def test_run_has_the_address_for_its_user(harness: Harness) -> None:
    address = {False: "unix:/own", True: "unix:/others"}.get

    def made() -> Run:
        return harness.builder(address).build(
            Job(id=7, command="true", spec=Spec(), owner="ada", submitted_at=START), 1, WORD
        )

    assert made().env["TASKQ_ADDRESS"] == "unix:/own"
    harness.as_owner()
    assert made().env["TASKQ_ADDRESS"] == "unix:/others"
    assert "TASKQ_ADDRESS" not in harness.make(command="true").env


def test_units_of_the_attempt_are_in_its_environment_and_win_over_the_submission(harness: Harness) -> None:
    job = Job(
        id=7,
        command="true",
        spec=Spec(needs={"gpu": 2, "tape": 1, "disk": 3}, env={"CUDA_VISIBLE_DEVICES": "9"}),
        owner="ada",
        submitted_at=START,
        last_attempt=Attempt(number=1, started_at=START, units="gpu=0,GPU-2 tape=left"),
    )
    builder = RunBuilder(
        harness.spool, "store", harness.run_as, unit_variables={"gpu": "CUDA_VISIBLE_DEVICES"}
    )
    env = builder.build(job, 1, WORD).env
    assert {name: value for name, value in env.items() if "NEED" in name or "CUDA" in name} == {
        "TASKQ_NEED_GPU": "0,GPU-2",
        "CUDA_VISIBLE_DEVICES": "0,GPU-2",
        "TASKQ_NEED_TAPE": "left",
    }


def test_directory_that_is_not_utf8_is_kept_byte_exact(harness: Harness) -> None:
    run = harness.make(command="true", cwd_base64=b"/\xff")
    assert os.fsencode(run.cwd or "") == b"/\xff"


@pytest.mark.parametrize("umask, asked", [(0o022, None), (0o077, 0o077)])
def test_run_has_the_requested_options(harness: Harness, umask: int, asked: int | None) -> None:
    run = harness.make(
        2,
        command="true",
        cwd="/tmp",
        umask=umask,
        nice=3,
        timeout=9.0,
        idle_timeout=8.0,
        kill_after=1.0,
        memory=10**9,
        cpu_time=7.0,
        nofile=99,
        stdin=2,
        env={"A": "1"},
        env_base64={"B": b"\xff"},
    )
    assert run == Run(
        id=7,
        attempt=2,
        word=WORD,
        spec=run.spec,
        command="true",
        stdin=harness.spool.path(7, "stdin"),
        env=run.env,
        umask=asked,
        directory=os.getcwd(),
        submitted_variables=("A", "B"),
    )
    assert (run.cwd, run.uid, run.spec.nofile) == ("/tmp", None, 99)
    assert (run.env["A"], run.env["B"], run.env["TASKQ_ATTEMPT"]) == ("1", "\udcff", "2")
    assert (run.env["TASKQ_PROGRESS"], run.env["TASKQ_RUN"]) == (
        harness.spool.path(7, "progress"),
        f"store.7.2.{WORD}",
    )
    assert {name: run.env[name] for name in daemon_user_environment()} == daemon_user_environment()


@pytest.mark.parametrize("array", [None, 7])
def test_run_has_the_stored_secrets(harness: Harness, array: int | None) -> None:
    harness.kept("secret", b"A=x\xff=\0B=\0")
    spec = Spec(secrets=("A", "B"), env={"C": "1"})
    job_id = 9 if array else 7
    run = harness.made(Job(id=job_id, spec=spec, owner="ada", submitted_at=START, array=array, index=array))
    assert (run.env["A"], run.env["B"], run.env["C"]) == ("x\udcff=", "", "1")
    assert set(run.submitted_variables) == {"A", "B", "C"}


@pytest.mark.parametrize(
    "content, why",
    [(None, "No such file"), (b"A=1\0", "expected the values of A, B"), (b"A=1\0B=2", "the file has others")],
)
def test_job_whose_secrets_cannot_be_read_cannot_start(
    harness: Harness, content: bytes | None, why: str
) -> None:
    if content is not None:
        harness.kept("secret", content)
    with pytest.raises(CannotStart, match=f"its secrets cannot be read: .*{why}"):
        harness.make(command="true", secrets=("A", "B"))


@pytest.mark.parametrize("mode", [0o600, 0o700])
@pytest.mark.parametrize(
    "content, interpreter",
    [(b"", ()), (b"echo 1\n", ()), (b"#!/usr/bin/env python3\n\0", ("/usr/bin/env", "python3"))],
)
def test_script_runs_by_its_interpreter_with_any_mode(
    harness: Harness, mode: int, content: bytes, interpreter: tuple[str, ...]
) -> None:
    path = harness.kept("script", content, mode)
    run = harness.make(script=0)
    assert (run.command, run.script, run.interpreter) == (None, str(path), interpreter)


@pytest.mark.parametrize(
    "content, why",
    [
        (None, "its script cannot be read: .*No such file"),
        (b"\x7fELF\x02\x01\x01\0", "its script is a program"),
        (b"#!/bin/sh\r\necho 1\r\n", "its script names the interpreter '/bin/sh' with a carriage return"),
    ],
)
def test_script_with_an_impossible_interpreter_cannot_start(
    harness: Harness, content: bytes | None, why: str
) -> None:
    if content is not None:
        harness.kept("script", content)
    with pytest.raises(CannotStart, match=why) as raised:
        harness.make(script=0)
    assert not raised.value.is_shortage


def test_lack_of_descriptors_to_read_a_script_is_a_shortage(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.kept("script", b"true")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(run_builder, "open", refuse, raising=False)
    with pytest.raises(CannotStart) as raised:
        harness.make(script=0)
    assert raised.value.is_shortage


# Properties of the daemon that a job must not inherit.


def test_job_has_the_time_zone_of_schedules(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    assert "TZ" not in daemon_user_environment() | run_builder.user_environment(harness.ada)
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert (
        daemon_user_environment()["TZ"] == run_builder.user_environment(harness.ada)["TZ"] == "Europe/Berlin"
    )


def test_job_without_a_directory_starts_at_home_if_the_daemon_s_is_gone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = harness.place / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    made = harness.builder()
    job = Job(id=7, owner="ada", submitted_at=START)
    assert made.build(job, 1, WORD).directory == str(gone)
    gone.rmdir()
    assert made.build(job, 1, WORD).directory == daemon_user_environment()["HOME"]
    assert os.getcwd() == "/", "a shell prints an error in a removed directory"
    assert made.build(job, 1, WORD).directory == daemon_user_environment()["HOME"]


@pytest.mark.parametrize("own, given", [(0, None), (-500, 0), (200, 0)])
def test_job_does_not_inherit_the_runner_s_oom_score(harness: Harness, own: int, given: int | None) -> None:
    harness.base = Base(oom_score_adj=own)
    assert harness.make().oom_score_adj == given


@pytest.mark.parametrize("own, given", [(0o022, None), (0o077, 0o022)])
def test_job_does_not_inherit_the_runner_s_umask(harness: Harness, own: int, given: int | None) -> None:
    harness.base = Base(umask=own)
    assert harness.make(umask=0o022).umask == given


def test_job_gets_the_daemon_s_limits_that_the_runner_lacks(harness: Harness) -> None:
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    harness.base = Base(limits={resource.RLIMIT_NOFILE: own})
    assert harness.make().limits == {}
    harness.base = Base(limits={resource.RLIMIT_NOFILE: (own[0] - 1, own[1])})
    command = f"ulimit -S -n {own[0]} 2>/dev/null; "
    assert harness.make().limits == {resource.RLIMIT_NOFILE: command}


def test_task_has_the_script_and_stdin_of_its_array(harness: Harness) -> None:
    script, stdin = harness.kept("script", b"x"), harness.kept("stdin", b"y")
    spec = Spec(script=1, stdin=1)
    run = harness.made(Job(id=9, spec=spec, owner="ada", submitted_at=START, array=7, index=1))
    assert (run.script, run.stdin) == (str(script), str(stdin))
    assert run.env["TASKQ_PROGRESS"] == harness.spool.path(9, "progress")


# As its owner.


def test_owner_s_environment_is_that_of_the_user(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    base = {
        "PATH": run_builder.search_path(),
        "HOME": "/home/ada",
        "LANG": "de_DE.UTF-8",
        "USER": "ada",
        "LOGNAME": "ada",
        "SHELL": "/bin/sh",
    }
    assert run_builder.user_environment(harness.ada) == base
    assert run_builder.user_environment(harness.ada._replace(home=""))["HOME"] == "/"
    assert run_builder.user_environment(harness.ada._replace(home="."))["HOME"] == "/"


@other_users.only_root
def test_owner_s_run_has_copies_that_the_user_owns(harness: Harness) -> None:
    harness.as_owner()
    (harness.place / "security" / "limits.conf").write_text("ada - nproc 50\n")
    harness.kept("script", b"#!/bin/sh\n", 0o700)
    harness.kept("stdin", b"in")
    run = harness.make(script=10, stdin=2, env={"LD_PRELOAD": "x"})
    assert run.owner == Owner(1, harness.ada.gid, "/home/ada", ("--nproc=50:50",))
    assert run.interpreter == ("/bin/sh",)
    paths = [run.script, run.stdin, run.env["TASKQ_PROGRESS"]]
    assert {os.path.dirname(str(path)) for path in paths} == {str(harness.place / "state.jobs")}
    assert {os.stat(str(path)).st_uid for path in paths} == {1}
    assert run.env["USER"] == "ada"
    assert "LD_PRELOAD" not in process_environment(run)
    Path(run.env["TASKQ_PROGRESS"]).write_bytes(b"60\n")
    assert harness.spool.read_progress(7).percent == 60
    harness.spool.close_attempt(7)
    assert os.listdir(harness.place / "state.jobs") == []


@other_users.only_root
def test_each_task_has_its_own_copies_of_the_array_s_files(harness: Harness) -> None:
    harness.as_owner()
    harness.kept("script", b"x")
    spec = Spec(script=1)
    made = [
        harness.made(Job(id=job_id, spec=spec, owner="ada", submitted_at=START, array=7, index=job_id))
        for job_id in (8, 9)
    ]
    assert len({run.script for run in made}) == 2
    harness.spool.close_attempt(8)
    assert Path(str(made[1].script)).read_bytes() == b"x"


def test_job_whose_files_cannot_be_copied_cannot_start(harness: Harness) -> None:
    harness.as_owner()
    with pytest.raises(CannotStart, match=r"its files cannot be copied for its user: .*No such file"):
        harness.make(script=1)
    assert os.listdir(harness.place / "state.jobs") == []


def test_job_of_a_removed_user_cannot_start_and_gets_no_files(harness: Harness) -> None:
    harness.as_owner()
    with pytest.raises(CannotStart, match="this machine has no user ben"):
        harness.made(Job(id=7, command="true", owner="ben", submitted_at=START))
    assert os.listdir(harness.place / "state.jobs") == []


@other_users.only_root
def test_job_of_the_daemon_uses_the_files_in_the_state_directory(harness: Harness) -> None:
    harness.as_owner()
    stdin = harness.kept("stdin", b"{}")
    run = harness.make(command="true", stdin=2, as_daemon=True)
    assert (run.owner, run.stdin) == (None, str(stdin))
    assert run.env["TASKQ_PROGRESS"] == harness.spool.path(7, PROGRESS)
    assert run.env["USER"] == pwd.getpwuid(os.geteuid()).pw_name
    assert stat.S_IMODE(stdin.stat().st_mode) == 0o600


def test_environment_of_the_client_comes_between_the_daemons_and_that_of_the_submission(
    harness: Harness,
) -> None:
    block = b"A=1\0B=\xff\0HOME=/home/me\0TZ=Asia/Tokyo\0"
    environment = environment_of(block)
    harness.spool.environments.store(environment, block)
    harness.kept("secret", b"D=4\0")
    run = harness.make(environment=environment, env={"A": "2", "C": "3"}, secrets=("D",))
    own = {**daemon_user_environment(), "HOME": "/home/me", "TZ": "Asia/Tokyo"}
    given = {"A": "2", "B": "\udcff", "C": "3", "D": "4"}
    assert {name: run.env[name] for name in {**own, **given}} == {**own, **given}
    assert run.env["TASKQ_JOB_ID"] == "7"
    assert run.submitted_variables == ("A", "B", "HOME", "TZ", "C", "D"), "each once"
    assert harness.make(environment=environment, tz="Europe/Berlin").env["TZ"] == "Europe/Berlin"


@pytest.mark.parametrize(
    "content, why", [(None, "No such file"), (b"A=2\0", "are not those with the SHA-256")]
)
def test_job_whose_environment_is_lost_or_damaged_cannot_start(
    harness: Harness, content: bytes | None, why: str
) -> None:
    environment = environment_of(b"A=1\0")
    if content is not None:
        harness.spool.environments.store(environment, content)
    with pytest.raises(CannotStart, match=f"its environment cannot be read: .*{why}"):
        harness.make(environment=environment)


@other_users.only_root
def test_environment_of_the_client_is_hidden_from_programs_run_by_root(harness: Harness) -> None:
    harness.as_owner()
    block = b"A=1\0LD_PRELOAD=/x\0PATH=/y\0"
    harness.spool.environments.store(environment_of(block), block)
    run = harness.make(environment=environment_of(block), env={"A": "2"}, command="true")
    environment = process_environment(run)
    assert not {"A", "LD_PRELOAD", "PATH"} & set(environment)
    assert {environment[f"TASKQ_ENV_{name}"] for name in ("A", "LD_PRELOAD", "PATH")} == {"2", "/x", "/y"}
    assert "for TASKQ_N in A LD_PRELOAD PATH; do" in command_line(run)[-1]


def test_job_has_the_requested_time_zone_unless_its_environment_has_another(harness: Harness) -> None:
    run = harness.make(command="date", tz="Europe/Berlin")
    assert (run.env["TZ"], run.submitted_variables) == ("Europe/Berlin", ("TZ",))
    other = harness.make(command="date", tz="Europe/Berlin", env={"TZ": "UTC"})
    assert (other.env["TZ"], other.submitted_variables) == ("UTC", ("TZ",)), "renamed once"


# For root's runner, which changes the user.


def test_run_for_root_s_runner_names_the_user_and_the_files_that_the_runner_makes(harness: Harness) -> None:
    harness.run_as.is_owner = harness.run_as.by_runner = True
    harness.ada = harness.ada._replace(uid=12345)
    files = RunnerFiles("/var/lib/r.jobs")
    builder = RunBuilder(harness.spool, "store", harness.run_as, files, base=lambda: harness.base)
    harness.kept("script", b"echo hi\n")
    spec = Spec(script=8, env={"A": "1", "IFS": "x"})
    run = builder.build(Job(id=7, spec=spec, owner="ada", submitted_at=START), 1, WORD)
    start = make_start(run, harness.spool.output_paths(7, 1))
    assert (start.user, start.uid, start.mark, start.stdin, start.stdout, start.stderr) == (
        *("ada", None, "", None, "", ""),
    )
    assert [file.kind for file in start.files] == ["stdout", "stderr", "script"]
    assert start.argv[:2] == ["/bin/sh", "-c"]
    assert start.argv[-1] == f"/var/lib/r.jobs/7.1.{WORD}.script"
    assert start.env["TASKQ_ENV_A"] == "1"
    assert start.env["TASKQ_ENV_TASKQ_PROGRESS"] == f"/var/lib/r.jobs/7.1.{WORD}.progress"
    assert {name for name in start.env if not name.startswith("TASKQ_ENV_")} == set()
    assert not {"TASKQ_ENV_TASKQ_RUN", "TASKQ_ENV_IFS"} & start.env.keys()


def test_end_hook_for_root_s_runner_starts_in_the_daemon_s_directory(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.as_owner()
    harness.run_as.by_runner = True
    harness.ada = harness.ada._replace(uid=os.geteuid())
    monkeypatch.setattr(harness.run_as, "user_of", lambda _: harness.ada)
    run = harness.make(command="true")
    assert run.owner is not None
    assert run.owner.home == os.getcwd()
