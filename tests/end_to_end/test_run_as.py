"""run-as = "owner": jobs run as their owners, and as root only if root submitted them."""

import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.daemon import TWISTD, Daemon, environment, is_alive
from tests.end_to_end.wire import DEADLINE, Wire, quote, until
from tests.support import other_users

pytestmark = [other_users.only_root, pytest.mark.needs("setpriv", "prlimit")]

TASKQ = TWISTD.with_name("taskq")
AS_OWNER = ("--run-as", "owner")


class Shared(Daemon):
    """A daemon with a socket that is open to all users."""

    def __init__(self, place: Path, *options: str, slots: int = 4, tcp: bool = False) -> None:
        self.open_socket = place / "open"
        listen = ("--listen", f"unix:{self.open_socket}:mode=666")
        super().__init__(place, *listen, *AS_OWNER, *options, slots=slots, tcp=tcp)

    def connect_as(self, name: str) -> Wire:
        """Return a connection of another user."""
        with other_users.acting(other_users.user(name)):
            self.socket, mine = self.open_socket, self.socket
            try:
                return self.connect()
            finally:
                self.socket = mine

    def start(self) -> "Shared":
        super().start()
        return self

    def copied_files(self) -> list[str]:
        """Return the names of the files that are copied for attempts now."""
        return sorted(os.listdir(f"{self.state}.jobs"))


@contextmanager
def shared(*options: str, tcp: bool = False) -> Iterator[Shared]:
    with other_users.open_place() as place:
        one = Shared(place, *options, tcp=tcp)
        try:
            yield one
        finally:
            complaints = one.close()
            assert complaints == []


@pytest.fixture(name="running", scope="module")
def a_daemon_for_all() -> Iterator[Shared]:
    with shared("--on-end-command", "id -u; cat > /dev/null") as one:
        yield one.start()


@pytest.fixture(name="games")
def a_user(running: Shared) -> Wire:
    return running.connect_as("games")


@pytest.fixture(name="root")
def root_user(running: Shared) -> Wire:
    return running.connect()


# The user of a job.


@pytest.mark.parametrize("name", other_users.NAMES)
def test_job_has_all_ids_and_rights_of_its_owner(running: Shared, name: str) -> None:
    user = other_users.user(name)
    wire = running.connect_as(name)
    shown = wire.run("id -u; id -g; id -G; id -ru; grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status")
    uid, gid, groups, real, *rights = shown.stdout.decode().splitlines()
    assert (int(uid), int(real), int(gid)) == (user.uid, user.uid, user.gid)
    assert {int(each) for each in groups.split()} == set(os.getgrouplist(name, user.gid))
    assert {line.split()[1].strip("0") for line in rights} == {""}
    assert wire.show(wire.submit("true"))["owner"] == name


def test_job_has_the_environment_of_its_owner(games: Wire) -> None:
    user = other_users.user("games")
    shown = dict(line.split("=", 1) for line in games.run("env -0").stdout.decode().split("\0")[:-1])
    given = {name: shown[name] for name in ("HOME", "USER", "LOGNAME", "SHELL")}
    assert given == {"HOME": user.home, "USER": "games", "LOGNAME": "games", "SHELL": "/bin/sh"}
    assert {name for name in shown if not name.startswith("TASKQ_")} == {*given, "PATH", "LANG", "PWD"}
    assert not {name for name in shown if name.startswith("TASKQ_ENV")}
    reach = games.run('test -S "${TASKQ_ADDRESS#unix:}" -a -w "${TASKQ_ADDRESS#unix:}"')
    assert reach.exit_code == "0", "the socket in TASKQ_ADDRESS is open to the job"


def test_variables_are_byte_exact_and_affect_only_the_owner_s_programs(games: Wire) -> None:
    value = bytes(range(1, 256))
    shown = games.run(f'--env=A={quote(value)} --env=LD_PRELOAD=/nonexistent.so printf %s "$A"; /bin/true')
    assert shown.stdout == value
    assert shown.stderr.count(b"/nonexistent.so") == 1, (
        "by /bin/true, and neither by setpriv nor by the shell"
    )


def test_directory_is_entered_with_the_owner_s_rights(running: Shared, games: Wire) -> None:
    home = other_users.user("games").home
    assert games.run("pwd").stdout.decode() in (f"{home}\n", "/\n")
    assert games.run("--cwd=/tmp pwd").stdout == b"/tmp\n"
    for closed in ("/root", str(running.state), "/nonexistent"):
        job = games.submit(f"--cwd={closed} echo never")
        assert games.wait(job) == "FAILED"
        assert games.result(job)[::2] == (b"", "126")
        assert games.show(job)["reason"] == "exit"
    assert games.run("echo $OLDPWD").stdout == b"\n"


def test_output_files_are_opened_with_the_owner_s_rights(running: Shared, games: Wire) -> None:
    with other_users.open_place() as place:
        place.chmod(0o777)
        job = games.submit(f"--stdout={place}/%j --merge --umask=027 id -un; echo err >&2")
        assert games.wait(job) == "COMPLETED"
        file = place / str(job)
        assert file.read_text() == "games\nerr\n"
        assert (file.owner(), stat.S_IMODE(file.stat().st_mode)) == ("games", 0o640)
        (place / "closed").mkdir(0o700)
        for path in (f"{place}/closed/file", f"{running.state}/lock", f"{place}/missing/file"):
            refused = games.run(f"--stdout={path} touch {place}/never")
            assert refused.exit_code == "126"
            assert f"{path}: ".encode() in refused.stderr
        assert os.listdir(place / "closed") == []
        assert not (place / "never").exists()


def test_job_of_an_owner_can_use_all_its_files_and_pipes(games: Wire) -> None:
    assert games.run("echo out > /dev/stdout; echo err > /dev/stderr")[:2] == (b"out\n", b"err\n")
    assert games.run("--stdin=2 cat; cat /dev/stdin", b"in") == (b"inin", b"", "0")
    assert games.run("--script=22", b"id -un; cd / && echo 2").stdout == b"games\n2\n"
    script = b"#!/usr/bin/env -S cat --\n"
    assert games.run(f"--cwd=/tmp --script={len(script)}", script).stdout == script
    job = games.submit("--array=1-3 --script=17", b"echo $TASKQ_INDEX")
    assert games.wait(job) == "COMPLETED"
    assert [games.result(f"{job}.{index}").stdout for index in (1, 2, 3)] == [b"1\n", b"2\n", b"3\n"]
    assert games.run("--nice=5 --nofile=30 nice; ulimit -n").stdout == b"%d\n30\n" % (os.nice(0) + 5)
    refused = games.run("--nofile=1048576 echo never")
    assert (refused.stdout, refused.exit_code) == (b"", "1")


def test_progress_is_reported_and_the_files_are_removed_afterwards(
    running: Shared, games: Wire, root: Wire
) -> None:
    job = games.submit("echo 40 > $TASKQ_PROGRESS; exec sleep 100")
    until(lambda: games.ask(f"STATUS {job}") == "STATUS RUNNING 40", "the progress")
    assert [name.split(".")[::3] for name in running.copied_files()] == [[str(job), "progress"]]
    games.cancel(job)
    assert running.copied_files() == []
    other = games.submit("rm -f $TASKQ_PROGRESS; ln -sf /etc/passwd $TASKQ_PROGRESS; chmod 0 $TASKQ_PROGRESS")
    assert games.wait(other) == "COMPLETED" or games.show(other)["reason"] == "exit"
    assert root.ask("PING").startswith("OK")


def test_output_and_state_stay_unreadable_for_owners(running: Shared, games: Wire) -> None:
    games.run("seq 1 3000")
    found = [path for path in running.state.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in found} == {0}
    shown = games.run(f"ls {running.state}; ls {running.state}.jobs; cat {running.state}/lock; exit 0")
    assert shown.stdout == b""


# Root.


def test_jobs_of_root_run_as_root(root: Wire) -> None:
    assert root.run("id -u; id -g").stdout == b"0\n0\n"
    assert root.run("--script=5", b"id -u").stdout == b"0\n"


def test_end_hook_runs_as_the_daemon(games: Wire, root: Wire) -> None:
    job = games.submit("true")
    games.wait(job)

    def notices() -> list[int]:
        return [
            one["id"] for one in root.list("--queue=on_end --limit=10000") if one["label"] == f"on_end {job}"
        ]

    [notice] = until(notices, "the end hook")
    assert root.wait(notice) == "COMPLETED"
    assert root.result(notice).stdout == b"0\n"


def test_no_other_user_can_run_as_the_daemon() -> None:
    """An admin may use the queue of the notices, and runs there as themselves like everywhere else."""
    with shared("--role", "games=admin") as one:
        wire = one.start().connect_as("games")
        assert wire.run('--queue=on_end --priority=1000000 --label="on_end 1" id -un').stdout == b"games\n"
        assert wire.ask("SUBMIT --as-daemon id").startswith("ERROR BAD_REQUEST ")
        job = wire.submit("--hold id -u")
        assert wire.ask(f"SET {job} --as-daemon=1").startswith("ERROR BAD_REQUEST ")
        assert wire.ask(f"RELEASE {job}").startswith("STATUS ")
        wire.wait(job)
        assert wire.result(job).stdout == f"{other_users.user('games').uid}\n".encode()


def test_token_name_is_a_user_and_root_is_refused() -> None:
    with shared(tcp=True) as one:
        one.start()

        def come(name: str) -> Wire:
            made = subprocess.run(
                [TASKQ, "token", "add", name, "--role", "admin", "--state", one.state],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                check=True,
            )
            wire = one.connect_tcp(authenticate=False)
            assert wire.ask(f"AUTH {made.stdout.split()[-1]}") == f"OK {name} admin"
            return wire

        assert come("games").run("id -un").stdout == b"games\n"
        for name in ("root", "no-such-user", "0", "taskqd.on_end"):
            wire = come(name)
            for request in ("SUBMIT id", "SUBMIT --queue=on_end id", "SCHEDULE --every=1s id"):
                assert wire.ask(request).startswith("ERROR FORBIDDEN "), name
        held = one.connect().submit("--hold id -u")
        assert come("root").ask(f"SET {held} --priority=1").startswith("JOB ")
        assert come("root").ask(f"SET {held} --command=id").startswith("ERROR FORBIDDEN ")
        assert one.connect().list("--owner=root --status=PENDING")[0]["id"] == held


def test_older_job_of_root_does_not_run_as_root() -> None:
    """A daemon without run-as accepts jobs of any user named root, by a token for instance."""
    with shared() as one:
        options = [word for word in one.options if word not in AS_OWNER]
        one.options, as_owner = options, one.options
        wire = one.start().connect()
        held = wire.submit("--hold id -u")
        theirs = one.connect_as("games").submit("--hold id -un")
        one.stop()
        one.options = as_owner
        wire = one.start().connect()
        for job in (held, theirs):
            wire.ask(f"RELEASE {job}")
            wire.wait(job)
        shown = wire.show(held)
        assert (shown["status"], shown["reason"]) == ("FAILED", "spawn")
        assert "submit it again as root" in shown["detail"]
        assert wire.result(theirs).stdout == b"games\n"


def test_new_command_or_script_runs_as_the_owner_who_alone_may_give_it(games: Wire, root: Wire) -> None:
    job = games.submit("--hold true")
    assert root.ask(f"SET {job} --command=id").startswith("ERROR FORBIDDEN ")
    script = b"echo $1; id -un"
    games.send(b"SET %d --command=x --script=%d\r\n%b\r\n" % (job, len(script), script))
    assert games.read_job()["command"] == "x"
    assert games.ask(f"RELEASE {job}").startswith("STATUS ")
    assert games.wait(job) == "COMPLETED"
    assert games.result(job).stdout == b"x\ngames\n"
    mine = root.submit("--hold true")
    assert games.ask(f"SET {mine} --command=id").startswith("ERROR FORBIDDEN ")
    assert root.ask(f'SET {mine} --command="id -un"').startswith("JOB ")
    assert root.ask(f"RELEASE {mine}").startswith("STATUS ")
    assert root.wait(mine) == "COMPLETED"
    assert root.result(mine).stdout == b"root\n"


@pytest.mark.parametrize("name", ["games", "root"])
def test_schedule_runs_as_its_owner(running: Shared, name: str) -> None:
    wire = running.connect() if name == "root" else running.connect_as(name)
    number = int(wire.ask("SCHEDULE --every=1s id -un").split(" ")[1])
    job = int(until(lambda: wire.schedules()[number].get("last_job"), "its first job") or 0)
    assert wire.ask(f"UNSCHEDULE {number}") == "OK"
    wire.wait(job)
    assert wire.result(job).stdout == f"{name}\n".encode()


# Ends.


def test_cancel_and_timeout_end_processes_of_other_users(running: Shared, games: Wire) -> None:
    job = games.submit("--kill-after=200ms trap '' TERM; sleep 300 & while :; do sleep 0.1; done")
    games.wait_running(job)
    assert games.ask(f"CANCEL {job}").startswith("STATUS RUNNING")
    assert games.wait(job) == "CANCELLED"
    job = games.submit(
        "--timeout=300ms --kill-after=200ms sh -c \"trap '' TERM; sleep 300; sleep 300\"; sleep 300"
    )
    assert games.wait(job) == "FAILED"
    assert games.show(job)["reason"] == "timeout"
    games.run("sleep 300 & exit 0")
    running.wait_for_no_process()


def test_crash_is_followed_by_the_end_of_processes_and_removal_of_copies() -> None:
    with shared() as one:
        wire = one.start().connect_as("games")
        job = wire.submit("--retries=1 --script=15 --stdin=1", b"exec sleep 300\n", b"x")
        wire.wait_running(job)
        until(lambda: len(one.processes()) == 1, "its process")
        pid = wire.process(job)
        before = one.copied_files()
        assert len(before) == 3
        one.crash()
        assert is_alive(pid)
        assert one.copied_files() == before
        wire = one.start().connect_as("games")
        until(lambda: not is_alive(pid), "the leftover to end")
        wire.wait_running(job)
        assert len(one.copied_files()) == 3
        assert not set(before) & set(one.copied_files())
        wire.cancel(job)


def test_forged_mark_ends_only_the_forger_s_processes() -> None:
    """A user can put any mark on their own processes, and only those are ended."""
    with shared() as one:
        wire, victim = one.start().connect_as("games"), one.connect_as("daemon")
        mark = wire.run("echo $TASKQ_RUN").stdout.decode().strip()
        store = mark.split(".")[0]
        theirs = victim.submit("exec sleep 300")
        victim.wait_running(theirs)
        games = other_users.user("games")
        forged = [f"{store}.{theirs}.1", f"{store}.999999.1", mark]
        forgers = [
            subprocess.Popen(
                ["/bin/sleep", "300"],
                env={"TASKQ_RUN": each},
                user=games.uid,
                group=games.gid,
                extra_groups=[],
                start_new_session=True,
            )
            for each in forged
        ]
        bystander = subprocess.Popen(["/bin/sleep", "300"], user=games.uid, start_new_session=True)
        try:
            one.crash()
            one.start()
            for forger in forgers[:2]:
                assert forger.wait(DEADLINE) == -signal.SIGKILL
            assert forgers[2].poll() is None, "its job has ended, and it is not in the session of that"
            assert bystander.poll() is None
            shown = one.connect_as("daemon").show(theirs)
            assert (shown["status"], shown["reason"]) == ("FAILED", "interrupted")
        finally:
            for process in (*forgers, bystander):
                process.kill()
                process.wait()


# The start.


def refused(one: Shared, prefix: list[str]) -> str:
    """Return the last line of a start that is refused."""
    done = subprocess.run(
        [*prefix, *one.command()],
        cwd=one.place,
        env=environment(),
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stdout + done.stderr
    return done.stderr.decode().splitlines()[-1]


def test_start_is_refused_if_the_daemon_is_not_root() -> None:
    with shared() as one:
        prefix = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
            pytest.skip("root may not make a user namespace here, so cannot start a daemon as another user")
        assert refused(one, prefix).startswith(
            'taskqd: run-as is "owner", and only a daemon that runs as root '
        )


def test_start_is_refused_if_root_lacks_the_capabilities() -> None:
    with shared() as one:
        prefix = ["setpriv", "--bounding-set=-setuid,-setgid", "--inh-caps=-all", "--"]
        assert re.match(
            r'taskqd: run-as is "owner", and jobs cannot be run as others: setpriv ', refused(one, prefix)
        )


@pytest.mark.parametrize("what", ["link", "open directory"])
def test_start_is_refused_if_the_directory_of_copies_is_unsafe(what: str) -> None:
    with shared() as one:
        beside = one.place / "state.jobs"
        if what == "link":
            beside.symlink_to("/etc")
        else:
            beside.mkdir()
            beside.chmod(0o777)
        assert "state.jobs" in refused(one, [])


ETC = Path(__file__).parents[2] / "etc"
UNITS = [ETC / f"{unit}.service.d" / "run-as-owner.conf" for unit in ("taskqd", "taskqd-runner")]


def test_capabilities_of_the_systemd_unit_are_enough() -> None:
    """With just the capabilities of the drop-in: a job, its progress, its end, and a crash."""
    lines = [
        line
        for unit in UNITS
        for line in unit.read_text().splitlines()
        if line.startswith("CapabilityBoundingSet=CAP")
    ]
    wanted = re.findall(r"CAP_([A-Z_]+)", " ".join(lines))
    with shared() as one:
        known = [f"+{name.lower()}" for name in wanted]
        prefix = ["setpriv", f"--bounding-set=-all,{','.join(known)}", "--inh-caps=-all", "--"]
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
            # A container's root has not all of them itself, and may add none.
            known = [name for name in known if name != "+sys_resource"]
            prefix[1] = f"--bounding-set=-all,{','.join(known)}"
        command = one.command
        one.command = lambda pid_file=None: [*prefix, *command(pid_file)]  # type: ignore[method-assign]
        wire = one.start().connect_as("games")
        assert wire.run("--stdin=2 cat; id -un", b"hi").stdout == b"higames\n"
        job = wire.submit("echo 30 > $TASKQ_PROGRESS; chmod 0 $TASKQ_PROGRESS; sleep 300")
        until(lambda: wire.ask(f"STATUS {job}") == "STATUS RUNNING 30", "the progress")
        wire.cancel(job)
        job = wire.submit("exec sleep 300")
        wire.wait_running(job)
        pid = wire.process(job)
        one.crash()
        one.start()
        until(lambda: not is_alive(pid), "the leftover to end")


def test_many_jobs_of_a_user_leave_nothing_behind(running: Shared, games: Wire) -> None:
    games.send(b"SUBMIT --script=7\r\necho hi\r\n" * 200)
    jobs = [int(line.removeprefix("JOB_ID ")) for line in games.lines(200)]
    assert {games.wait(job) for job in jobs} == {"COMPLETED"}
    running.wait_for_no_process()
    assert running.copied_files() == []
