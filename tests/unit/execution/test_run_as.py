"""As which user jobs run: submissions, starts of jobs, and checks at the start of the daemon."""

import errno
import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from taskqd.errors import Forbidden, QueueFull, StartRefused
from taskqd.execution import command_line, run_as
from taskqd.execution.run import CannotStart
from taskqd.execution.run_as import RunAs
from taskqd.execution.user_limits import UserLimits
from taskqd.execution.users import User
from taskqd.model.actor import END_HOOK
from taskqd.model.job import Job
from taskqd.model.spec import Spec
from taskqd.protocol import submit
from tests.fakes.clocks import START
from tests.support import other_users

KNOWN = {
    "ada": User("ada", 1000, 100, "/home/ada"),
    "root": User("root", 0, 0, "/root"),
    "toor": User("toor", 0, 0, "/root"),
    "taskqd": User("taskqd", 990, 990, "/var/lib/taskqd"),
}
SPEC = Spec()


class FakeUsers:
    """Users that the test defines."""

    def __init__(self) -> None:
        self.known = dict(KNOWN)
        self.error: OSError | None = None

    def find(self, name: str) -> User | None:
        if self.error is not None:
            raise self.error
        return self.known.get(name)


@pytest.fixture(name="users")
def some_users() -> FakeUsers:
    return FakeUsers()


@pytest.fixture(name="limits")
def no_limits(tmp_path: Path) -> UserLimits:
    return UserLimits(str(tmp_path))


def run_as_of(users: Any, limits: UserLimits, is_owner: bool = True) -> RunAs:
    return RunAs(is_owner, users, limits)


def job(owner: str, **options: Any) -> Job:
    return Job(id=7, spec=replace(SPEC, **options), owner=owner, submitted_at=START)


# Submissions.


@pytest.mark.parametrize("owner", ["ada", "root", "ben", "1234", ""])
@pytest.mark.parametrize("is_root_peer", [False, True])
def test_check_accepts_everything_if_all_run_as_the_daemon(
    users: FakeUsers, limits: UserLimits, owner: str, is_root_peer: bool
) -> None:
    all_as_daemon = run_as_of(users, limits, is_owner=False)
    assert all_as_daemon.check(owner, is_root_peer, SPEC) is SPEC
    assert all_as_daemon.user_of(job(owner)) is None


def test_check_accepts_a_user_of_the_machine(users: FakeUsers, limits: UserLimits) -> None:
    assert run_as_of(users, limits).check("ada", False, SPEC) is SPEC


@pytest.mark.parametrize("owner", ["ben", "token", "1234", "", "CN=ada"])
def test_check_refuses_unknown_users(users: FakeUsers, limits: UserLimits, owner: str) -> None:
    with pytest.raises(Forbidden, match=f"no user {owner}; submit at the UNIX socket, or with a token"):
        run_as_of(users, limits).check(owner, False, SPEC)


@pytest.mark.parametrize("owner", ["root", "toor"])
def test_check_lets_only_root_submit_jobs_of_root(users: FakeUsers, limits: UserLimits, owner: str) -> None:
    with pytest.raises(Forbidden, match=f"jobs of {owner} would run as root, and only root itself"):
        run_as_of(users, limits).check(owner, False, SPEC)
    assert run_as_of(users, limits).check(owner, True, SPEC) == replace(SPEC, as_daemon=True)


def test_no_option_of_a_submission_sets_as_daemon() -> None:
    options = (*submit.SUBMIT_OPTIONS.values(), *submit.SET_OPTIONS.values())
    assert "as_daemon" not in {option.field for option in options}
    assert not SPEC.as_daemon


# Starts of jobs.


def test_job_runs_as_its_owner(users: FakeUsers, limits: UserLimits) -> None:
    assert run_as_of(users, limits).user_of(job("ada")) == KNOWN["ada"]
    assert run_as_of(users, limits).user_of(job("taskqd", queue="on_end")) == KNOWN["taskqd"]


@pytest.mark.parametrize("owner", ["ada", "root", "taskqd", "unknown-user"])
def test_job_with_as_daemon_runs_as_the_daemon(users: FakeUsers, limits: UserLimits, owner: str) -> None:
    assert run_as_of(users, limits).user_of(job(owner, as_daemon=True)) is None


@pytest.mark.parametrize("owner", ["root", "toor"])
def test_owner_named_root_does_not_run_as_root(users: FakeUsers, limits: UserLimits, owner: str) -> None:
    """Such a job was submitted when all jobs ran as the daemon's user, or with a token of that name."""
    with pytest.raises(CannotStart, match=f"it would run as root, .*; submit it again as {owner}"):
        run_as_of(users, limits).user_of(job(owner))


def test_owner_whose_uid_became_0_does_not_run_as_root(users: FakeUsers, limits: UserLimits) -> None:
    users.known["ada"] = KNOWN["ada"]._replace(uid=0)
    with pytest.raises(CannotStart, match="it would run as root"):
        run_as_of(users, limits).user_of(job("ada"))


def test_job_of_a_removed_user_cannot_start(users: FakeUsers, limits: UserLimits) -> None:
    del users.known["ada"]
    with pytest.raises(CannotStart, match="this machine has no user ada"):
        run_as_of(users, limits).user_of(job("ada"))


def test_lookup_without_descriptors_is_a_shortage(users: FakeUsers, limits: UserLimits) -> None:
    users.error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with pytest.raises(CannotStart, match=r"ada cannot be looked up: .*Too many open files") as raised:
        run_as_of(users, limits).user_of(job("ada"))
    assert raised.value.is_shortage
    with pytest.raises(QueueFull, match=r"ada cannot be looked up: .*; try again"):
        run_as_of(users, limits).check("ada", False, SPEC)


def test_limits_of_a_user_are_options_of_prlimit(
    users: FakeUsers, limits: UserLimits, tmp_path: Path
) -> None:
    (tmp_path / "limits.conf").write_text("ada - nproc 9\n")
    assert run_as_of(users, limits).limits_of(KNOWN["ada"]) == ("--nproc=9:9",)
    (tmp_path / "limits.d").write_text("no directory")
    with pytest.raises(CannotStart, match=r"the limits of ada cannot be read: .*Not a directory"):
        run_as_of(users, limits).limits_of(KNOWN["ada"])


# The start of the daemon.


def opened(users: Any, limits: UserLimits) -> str:
    """Return why the start is refused."""
    with pytest.raises(StartRefused) as refused:
        run_as_of(users, limits).open()
    return str(refused.value)


def test_open_refuses_a_daemon_that_is_not_root(
    users: FakeUsers, limits: UserLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert opened(users, limits).startswith(
        'run-as is "owner", and only a daemon that runs as root can run jobs as their owners: start'
    )
    run_as_of(users, limits, is_owner=False).open()


@pytest.mark.parametrize("missing", ["prlimit", "nice", "setpriv", "cat"])
def test_open_refuses_a_machine_without_the_programs(
    users: FakeUsers,
    limits: UserLimits,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    missing: str,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for program in {"prlimit", "nice", "setpriv", "cat"} - {missing}:
        (tmp_path / program).touch(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"jobs cannot be run as others: there is no {missing} in the daemon's PATH" in opened(
        users, limits
    )


STATUS = "Name:\tcat\nUid:\t{uid}\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\nCapInh:\t{caps}\n"
STATUS += "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n"


@pytest.mark.parametrize(
    "code, stdout, stderr, why",
    [
        (127, "", "setpriv: setresuid failed: Operation not permitted\n", "says: setpriv: setresuid failed"),
        (1, "", "", "setpriv says: 1"),
        (0, STATUS.format(uid=0, caps="0" * 16), "", "keeps some of root's rights: {'Uid': '0"),
        (0, STATUS.format(uid=65534, caps="0000000000000400"), "", "'CapInh': '0000000000000400'"),
    ],
)
def test_open_refuses_a_setpriv_that_keeps_rights(
    users: FakeUsers,
    limits: UserLimits,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    stdout: str,
    stderr: str,
    why: str,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(command_line, "find_program", lambda program: program)
    monkeypatch.setattr(run_as, "find_program", lambda program: program)
    done = subprocess.CompletedProcess([], code, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert why in opened(users, limits)


def test_open_refuses_a_setpriv_that_hangs(
    users: FakeUsers, limits: UserLimits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(run_as, "_CHECK_TIMEOUT", 0.1)
    for program in ("prlimit", "nice", "cat"):
        (tmp_path / program).touch(0o700)
    (tmp_path / "setpriv").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "setpriv").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "timed out after 0.1 seconds" in opened(users, limits)


@other_users.only_root
@pytest.mark.needs("setpriv", "prlimit")
def test_open_accepts_root(users: FakeUsers, limits: UserLimits) -> None:
    run_as_of(users, limits).open()


# By root's runner.


def by_runner_of(users: Any, limits: UserLimits) -> RunAs:
    return RunAs(True, users, limits, by_runner=True)


@pytest.mark.parametrize("is_root_peer", [False, True])
def test_jobs_of_root_are_forbidden_if_the_runner_changes_the_user(
    users: FakeUsers, limits: UserLimits, is_root_peer: bool
) -> None:
    with pytest.raises(
        Forbidden, match="jobs of root would run as root, and this daemon's runner runs nothing"
    ):
        by_runner_of(users, limits).check("root", is_root_peer, SPEC)
    assert by_runner_of(users, limits).check("ada", is_root_peer, SPEC) is SPEC


def test_end_hook_runs_as_the_daemon_s_user_if_the_runner_changes_the_user(
    users: FakeUsers, limits: UserLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = pwd.getpwall()[1]
    monkeypatch.setattr(os, "geteuid", lambda: me.pw_uid)
    hook = job(END_HOOK.name, as_daemon=True)
    assert by_runner_of(users, limits).user_of(hook) == User(me.pw_name, me.pw_uid, me.pw_gid, me.pw_dir)
    assert by_runner_of(users, limits).user_of(job("ada")) == KNOWN["ada"]
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    with pytest.raises(CannotStart, match="the daemon's uid 4000000 has no name any more"):
        by_runner_of(users, limits).user_of(hook)


def test_older_job_of_root_cannot_start_if_the_runner_changes_the_user(
    users: FakeUsers, limits: UserLimits
) -> None:
    with pytest.raises(CannotStart, match="root submitted it to run as root, and this daemon's runner runs"):
        by_runner_of(users, limits).user_of(job("root", as_daemon=True))


@pytest.mark.parametrize(
    "uid, text", [(0, "is for a daemon that is not root"), (4_000_000, "has no name in")]
)
def test_start_is_refused_if_the_runner_changes_the_user_and_the_daemon_s_is_unsuitable(
    users: FakeUsers, limits: UserLimits, monkeypatch: pytest.MonkeyPatch, uid: int, text: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(StartRefused, match=text):
        by_runner_of(users, limits).open()


def test_start_is_accepted_if_the_runner_changes_the_user(
    users: FakeUsers, limits: UserLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwall()[1].pw_uid)
    by_runner_of(users, limits).open()
