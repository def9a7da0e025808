"""The options of ``twistd taskq``, and the service that is made from them."""

import errno
import fcntl
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from taskqd import __version__
from taskqd.config.limits import LIMITS, Limits, make_limits
from taskqd.config.settings import SETTINGS, OnEnd, OnStop, Settings
from taskqd.config.settings_file import read_toml
from taskqd.daemon.service import TaskqService
from taskqd.daemon.tap import Options, makeService
from taskqd.execution.interfaces import IExecutor
from taskqd.model.rate import parse_rate
from taskqd.model.roles import Role
from taskqd.storage.interfaces import IJournal, ISpool

OPTIONS: Any = Options
"""`Options` without types: its base class has none."""

# Options.


@pytest.fixture(name="home")
def a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home directory of a user other than root, without XDG variables."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def parsed(*words: str) -> Settings:
    options = OPTIONS()
    options.parseOptions(list(words))
    settings: Settings = options.settings
    return settings


def refused(*words: str) -> str:
    """Return the line that a start with these options exits with."""
    with pytest.raises(SystemExit) as end:
        parsed(*words)
    text = str(end.value.code)
    assert text.startswith("taskqd: ")
    assert "\n" not in text
    return text


def test_defaults_are_in_the_home_directory(home: Path) -> None:
    state = home / ".local" / "state" / "taskqd"
    assert parsed() == Settings(
        state=str(state), listen=(f"unix:{state}/taskq.sock",), slots=len(os.sched_getaffinity(0))
    )


def test_defaults_follow_the_xdg_variables(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/r")
    assert (parsed().state, parsed().listen) == ("/s/taskqd", ("unix:/r/taskqd/taskq.sock",))


def test_defaults_of_root_are_system_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert (parsed().state, parsed().listen) == ("/var/lib/taskqd", ("unix:/run/taskqd/taskq.sock",))


def test_plain_options_set_their_settings(home: Path) -> None:
    settings = parsed("--state", "/s", "--slots", "3", "--listen", "tcp:9500", "--listen", "unix:/x:mode=660")
    assert settings == Settings(state="/s", listen=("tcp:9500", "unix:/x:mode=660"), slots=3)


def test_options_set_queues_resources_and_on_end(home: Path) -> None:
    words = ["--queue", "slow=2", "--queue", "fast=3", "--resource", "gpu=1", "--resource", "disk=5"]
    hook = ["--on-end-command", "mail ops", "--on-end-only", "failed", "--on-end-timeout", "1m"]
    settings = parsed(*words, *hook, "--on-end-slots", "2")
    assert settings.queues == {"slow": 2, "fast": 3, "on_end": 2}
    assert settings.resources == {"gpu": 1, "disk": 5}
    assert settings.on_end == OnEnd("mail ops", is_of_failures=True, timeout=60.0, slots=2)


def test_options_set_turns_and_rates_of_queues(home: Path) -> None:
    words = ["--queue-fair", "slow=true", "--queue-fair", "fast=false", "--queue-rate", "mail=10/m"]
    settings = parsed(*words)
    assert settings.fair_queues == {"slow": True, "fast": False}
    assert settings.queue_rates == {"mail": parse_rate("10/m")}


def test_options_set_limits_roles_checkers_and_run_as(home: Path) -> None:
    limits = ["--limit", "pending=5", "--limit", "idle_time=none", "--limit", "priority=-1"]
    roles = ["--role", "ana=admin", "--role", "*=read"]
    settings = parsed(*limits, *roles, "--auth", "file:/a", "--auth", "unix", "--run-as", "owner")
    assert settings.limits == Limits(pending=5, idle_time=None, priority=-1)
    assert settings.roles == {"ana": Role.ADMIN, "*": Role.READ}
    assert settings.auth == ("file:/a", "unix")
    assert settings.run_as_owner


def test_option_overrides_only_the_limit_or_role_that_it_names(home: Path) -> None:
    file = home / "taskqd.toml"
    file.write_text(
        'auth = "unix"\nrun_as = "owner"\n[limits]\npending = 5\nidle_time = "1h"\n'
        '[roles]\nana = "admin"\nben = "read"\n'
    )
    settings = parsed("-c", str(file), "--limit", "idle-time=2h", "--role", "ben=submit", "--auth", "file:/a")
    assert settings.limits == Limits(pending=5, idle_time=7200.0)
    assert settings.roles == {"ana": Role.ADMIN, "ben": Role.SUBMIT}
    assert settings.auth == ("file:/a",)
    assert settings.run_as_owner
    assert not parsed("-c", str(file), "--run-as", "daemon").run_as_owner


def test_speedups_can_be_switched_off(home: Path) -> None:
    assert not parsed("--speedups", "false").speedups
    assert parsed("--speedups", "true").speedups


def test_option_overrides_only_the_queue_or_on_end_value_that_it_names(home: Path) -> None:
    file = home / "taskqd.toml"
    file.write_text(
        "[queues.slow]\nslots = 1\n[queues.fast]\nslots = 4\n"
        '[resources]\ngpu = 1\n[on_end]\ncommand = "mail ops"\ntimeout = "5s"\n'
    )
    settings = parsed("-c", str(file), "--queue", "slow=2", "--on-end-timeout", "9s")
    assert settings.queues == {"slow": 2, "fast": 4, "on_end": 1}
    assert settings.resources == {"gpu": 1}
    assert settings.on_end == OnEnd("mail ops", timeout=9.0)


def test_example_file_has_every_setting_and_changes_none(home: Path) -> None:
    shipped = Path(__file__).parents[3] / "etc" / "taskqd.toml"
    assert parsed("--config", str(shipped)) == parsed()
    text = "\n".join(re.sub(r'^#(?=[a-z_\["-]+)', "", line) for line in shipped.read_text().splitlines())
    opened = home / "taskqd.toml"
    opened.write_text(text)
    values = read_toml(text, "etc/taskqd.toml")
    assert set(values) == set(SETTINGS)
    settings = parsed("--config", str(opened))
    defaults = {
        "stop-grace": 10.0,
        "on-stop": OnStop.LEAVE,
        "leave-for": None,
        "runner": False,
        "retention-age": 7 * 86400.0,
        "retention-count": 100_000,
        "retention-size": 10 * 1024**3,
        "retention-memory": 128 * 1024**2,
        "run-as": False,
        "runner-directory": None,
        "speedups": True,
        "default-socket": True,
    }
    assert values.items() >= defaults.items()
    assert settings.on_end == OnEnd(values["on-end-command"])
    assert set(settings.roles.values()) == set(Role)
    assert list(values["limit"]) == list(LIMITS)
    assert make_limits(values["limit"]) == Limits()


def test_default_socket_is_in_the_state_directory(home: Path) -> None:
    assert parsed("--state", "/s").listen == ("unix:/s/taskq.sock",)


@pytest.mark.parametrize(
    "words, listen",
    [
        (["--listen", "tcp:9500"], ("unix:/s/taskq.sock", "tcp:9500")),
        (["--listen", "tcp:9500", "--no-default-socket"], ("tcp:9500",)),
        (["--listen", "tcp:9500", "--default-socket=false"], ("tcp:9500",)),
        (["--listen", "tcp:9500", "--listen", "unix:/x"], ("tcp:9500", "unix:/x")),
    ],
)
def test_default_socket_is_added_unless_a_unix_socket_is_named_or_it_is_refused(
    home: Path, words: list[str], listen: tuple[str, ...]
) -> None:
    assert parsed("--state", "/s", *words).listen == listen


def test_default_socket_can_be_refused_in_the_file(home: Path) -> None:
    file = home / "taskqd.toml"
    file.write_text('listen = "tcp:9500"\ndefault-socket = false\n')
    assert parsed("--config", str(file)).listen == ("tcp:9500",)


def test_relative_state_directory_is_relative_to_the_current_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    assert parsed("--state", "here/it/is").state == f"{home}/here/it/is"


def test_file_has_the_same_settings_and_options_override_it(home: Path) -> None:
    file = home / "taskqd.toml"
    file.write_text('state = "/f"\nslots = 7\nlisten = ["tcp:1", "tcp:2"]\n')
    listen = ("unix:/f/taskq.sock", "tcp:1", "tcp:2")
    assert parsed("--config", str(file)) == Settings(state="/f", listen=listen, slots=7)
    assert parsed("-c", str(file), "--slots", "2").slots == 2
    assert parsed("-c", str(file), "--state", "/o").state == "/o"
    assert parsed("-c", str(file), "--listen", "tcp:3").listen == ("unix:/f/taskq.sock", "tcp:3")
    file.write_text('state = "/f"\n')
    assert parsed("-c", str(file)).listen == ("unix:/f/taskq.sock",)


@pytest.mark.parametrize(
    "words, parts",
    [
        (["--slots", "0"], ["twistd taskq: slots", "a whole number from 1", "not 0"]),
        (["--slots", "-1"], ["twistd taskq: slots", "not '-1'"]),
        (["--slots", "many"], ["twistd taskq: slots", "not 'many'"]),
        (["--slots", ""], ["twistd taskq: slots"]),
        (["--slots", "10001"], ["twistd taskq: slots", "to 10000"]),
        (["--state", ""], ["twistd taskq: state"]),
        (["--state", "a\0b"], ["twistd taskq: state"]),
        (["--listen", ""], ["twistd taskq: listen"]),
        (["--no-default-socket"], ["there is nothing to listen on", "--listen"]),
        (["--listen", "nowhere"], ["twistd taskq: listen", "'nowhere'"]),
        (["--listen", "tcp:port"], ["twistd taskq: listen", "'tcp:port'"]),
        (["--queue", "slow"], ["twistd taskq: queue", "not 'slow'"]),
        (["--queue", "slow=none"], ["twistd taskq: queue", "not slow = 'none'"]),
        (["--queue", "on_end=2"], ["twistd taskq: queue", "but not on_end"]),
        (["--resource", "gpu=0"], ["twistd taskq: resource", "not gpu = 0"]),
        (["--limit", "line"], ["twistd taskq: limit must be one of connections, ", "not 'line'"]),
        (["--limit", "lines=1k"], ["twistd taskq: limit must be one of connections, ", "not 'lines'"]),
        (["--limit", "line=512"], ["twistd taskq: limit line must be a size from 1k to 64k", "not '512'"]),
        (["--limit", "line=none"], ["twistd taskq: limit line must be", "not 'none'"]),
        (["--limit", "block-memory=1M"], ["limit block-memory must be at least limit block", "not 1048576"]),
        (["--role", "ana"], ["twistd taskq: role", "not 'ana'"]),
        (["--role", "ana=root"], ["twistd taskq: role", "one of admin, submit, read", "not ana = 'root'"]),
        (["--auth", ""], ["twistd taskq: auth"]),
        (["--run-as", "root"], ["twistd taskq: run-as", '"owner" or "daemon"', "not 'root'"]),
        (["--on-end-command", ""], ["twistd taskq: on-end-command"]),
        (["--on-end-command", "x", "--on-end-only", "x"], ["twistd taskq: on-end-only", '"failed"']),
        (["--on-end-slots", "2"], ["on-end-command is missing"]),
        (["--config", "/nonexistent.toml"], ["/nonexistent.toml cannot be read", "No such file"]),
    ],
)
def test_invalid_option_value_ends_the_start_with_one_line(
    home: Path, words: list[str], parts: list[str]
) -> None:
    text = refused(*words)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    "content, part",
    [
        (b"slots = 0\n", "slots must be"),
        (b"slots = 'four'\n", "slots must be"),
        (b"[retention]\nage = 'old'\n", "retention-age must be"),
        (b"[queues.slow]\nslots = 0\n", "queue must be"),
        (b"[resources]\ngpu = 'two'\n", "resource must be"),
        (b"[limits]\nconnections = 0\n", "limit connections must be a whole number from 1"),
        (b"[roles]\nana = 'root'\n", "role must be"),
        (b"auth = 5\n", "auth must be"),
        (b"run-as = 'root'\n", "run-as must be"),
        (b"state = 5\n", "state must be"),
        (b"listen = []\n", "listen must be"),
        (b"listen = 'nowhere'\n", "'nowhere' is not a valid endpoint"),
        (b"colour = 'red'\n", "unknown setting colour"),
        (b"slots = \n", "is not TOML"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_invalid_setting_in_the_file_is_refused_with_file_and_key(
    home: Path, content: bytes, part: str
) -> None:
    file = home / "taskqd.toml"
    file.write_bytes(content)
    text = refused("--config", str(file))
    assert str(file) in text
    assert part in text


@pytest.mark.parametrize("words", [("--colour", "red"), ("extra",), ("--slots",)])
def test_unknown_or_incomplete_option_ends_the_start_with_one_line(
    home: Path, words: tuple[str, ...]
) -> None:
    text = refused(*words)
    assert text.startswith("taskqd: twistd taskq: ")
    assert text.endswith("; see twistd taskq --help")


def test_help_has_every_option_and_an_example() -> None:
    text = str(Options())
    for part in (*(f"--{key}" for key in SETTINGS), "--config", "twistd --logfile"):
        assert part in text


def test_help_describes_access_and_the_user_of_jobs() -> None:
    text = " ".join(str(Options()).split())
    for part in (
        "root and the daemon's user have the role admin",
        "may submit jobs and see only these",
        '"taskq token add" makes',
        "runs each job as the user who submitted it",
    ):
        assert part in text


def test_help_fits_a_terminal() -> None:
    text = str(Options())
    assert max(map(len, text.splitlines())) <= 100


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        OPTIONS().parseOptions(["--version"])
    assert not end.value.code
    assert capsys.readouterr().out == f"taskqd {__version__}\n"


@pytest.mark.parametrize(
    "option, path, code, message",
    [
        ("--help", "pipe", 141, b""),
        ("--version", "/dev/full", 1, b"taskqd: stdout: No space left on device\n"),
    ],
)
def test_unwritable_stdout_ends_help_and_version_without_a_traceback(
    option: str, path: str, code: int, message: bytes
) -> None:
    script = "from taskqd.daemon.foreground import main; main()"
    reader, output = os.pipe() if path == "pipe" else (None, os.open(path, os.O_WRONLY))
    if reader is not None:
        os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-c", script, option], stdout=output, stderr=subprocess.PIPE, check=False
    )
    os.close(output)
    assert (ended.returncode, ended.stderr) == (code, message)


@pytest.mark.parametrize("given", [None, "~", "relative"])
def test_start_without_a_home_directory_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    if given is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", given)
    monkeypatch.chdir(home)
    assert "the user 1000 has no home directory" in refused()
    assert list(home.iterdir()) == []
    assert parsed("--state", "/s").state == "/s"


def test_default_socket_with_a_path_that_is_too_long_is_refused(home: Path) -> None:
    state = "/" + "s" * 100
    said = refused("--state", state)
    assert f"the path {state}/taskq.sock has 112 bytes" in said
    assert "at most 107; give a shorter one with --listen unix:PATH" in said
    assert parsed("--state", state, "--listen", "unix:/" + "x" * 106).state == state


def test_pid_file_of_a_dead_daemon_is_removed_if_the_state_directory_is_not_locked(home: Path) -> None:
    path = home / "twistd.pid"
    path.write_text("")
    options = OPTIONS()
    options.parent = {"pidfile": str(path)}
    options.parseOptions(["--state", str(home / "state")])
    assert not path.exists()


def test_lock_that_fails_ends_the_start_with_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "lock").touch()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = refused("--state", str(home))
    assert f"the state directory {home} cannot be used: " in said


# makeService.


def made(state: Path, parent: dict[str, Any] | None = None, *words: str) -> TaskqService:
    options = OPTIONS()
    options.parent = parent
    options.parseOptions(["--state", str(state), "--listen", f"unix:{state}/s", "--slots", "2", *words])
    return makeService(options)


def test_make_service_opens_nothing(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    taskq = made(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []
    assert set(os.listdir("/proc/self/fd")) == before
    verifyObject(IJournal, taskq.components.journal)
    verifyObject(ISpool, taskq.components.spool)
    verifyObject(IExecutor, taskq.components.executor)


@pytest.mark.parametrize(
    "parent, owner, is_daemon",
    [
        (None, None, False),
        ({"uid": None, "gid": None, "nodaemon": True}, None, False),
        ({"uid": None, "gid": None, "nodaemon": False}, None, True),
        ({"uid": 0, "gid": None, "nodaemon": 0}, (0, 0), True),
        ({"uid": 65_534, "gid": 7, "nodaemon": 1}, (65_534, 7), False),
    ],
)
def test_service_knows_the_user_that_twistd_switches_to(
    tmp_path: Path, parent: dict[str, Any] | None, owner: tuple[int, int] | None, is_daemon: bool
) -> None:
    taskq = made(tmp_path / "state", parent)
    assert (taskq.owner, taskq.is_daemon) == (owner, is_daemon)


def test_directories_are_made_for_the_user_that_twistd_switches_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, int, int]] = []
    monkeypatch.setattr(os, "chown", lambda *args: given.append(args))
    words = ["--listen", f"unix:{tmp_path}/run/s", "--listen", "tcp:0", "--listen", "unix:relative.sock"]
    made(tmp_path / "state", {"uid": 65_534, "gid": 7}, *words).privilegedStartService()
    assert given == [(f"{tmp_path}/state", 65_534, 7), (f"{tmp_path}/run", 65_534, 7)]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    given.clear()
    made(tmp_path / "state", {"uid": 65_534, "gid": 7}, *words).privilegedStartService()
    assert given == []
