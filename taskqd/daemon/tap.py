"""The plugin of twistd: parses the options of ``twistd taskq`` and makes the service.

twistd calls ``makeService`` before it daemonizes and drops privileges, so nothing is opened there.
"""

import os
import pwd
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, cast

from msgspec.structs import replace
from twisted.python import usage

from taskqd import __version__
from taskqd.config.paths import NO_HOME, default_socket, default_state
from taskqd.config.settings import SETTINGS, Setting, Settings, check_option, merge
from taskqd.config.settings_file import read_toml
from taskqd.daemon import pid_file
from taskqd.daemon.clocks import use_monotonic
from taskqd.daemon.log_output import make_log_output
from taskqd.daemon.reactor import IReactor
from taskqd.daemon.service import TaskqService
from taskqd.errors import SettingsError, StartRefused
from taskqd.server import endpoints
from taskqd.storage.state_directory import check_unlocked

STDOUT = 1
BROKEN_PIPE = 141
"""Exit code if the reader of stdout has gone, as a shell reports SIGPIPE: 128 + 13."""

DESCRIPTION = """\
A durable queue for shell commands. Clients submit jobs over a line protocol
(try telnet, nc -U, or the taskq command). A job is on disk before its
submission is acknowledged. Up to --slots jobs run at the same time, each in a
separate session. Jobs survive restarts of the daemon.

The default state directory is /var/lib/taskqd for root, for other users
$XDG_STATE_HOME/taskqd or ~/.local/state/taskqd. Unless --listen names a UNIX
socket, the daemon listens on one that only its user may open:
/run/taskqd/taskq.sock for root, for other users
$XDG_RUNTIME_DIR/taskqd/taskq.sock or taskq.sock in the state directory. Ports
of --listen are added to it; --no-default-socket leaves it out.

On a UNIX socket, root and the daemon's user have the role admin. Other users
whom the socket's mode admits may submit jobs and see only these. TCP clients
need a token ("taskq token add" makes one). Jobs run as the daemon's user; if
that is root, --run-as owner runs each job as the user who submitted it.

Examples:
  taskqd
      run in the foreground, log to the terminal
  twistd --logfile taskq.log --pidfile taskq.pid taskq --slots 4
      run as a daemon
  taskqd --listen unix:/run/taskqd/taskq.sock:mode=660 \\
         --listen tcp:9500:interface=127.0.0.1
      also serve the group of the socket, and local clients that have a token

"taskqd ..." is "twistd -n --pidfile= taskq ...". Options of twistd come before
the word taskq: --logfile, --pidfile, --uid, --gid, and --rundir, the directory
of jobs that name none. SIGTERM stops the daemon and does to running jobs what
--on-stop says. Ctrl-C gives them time to end, a second Ctrl-C kills them.
docs/operations.md describes everything else.
"""


def _help(setting: Setting) -> str:
    return f"{setting.help}  [default: {setting.default}]" if setting.default else setting.help


class Options(usage.Options):
    """The options of ``twistd taskq``, made from the table of settings."""

    command = "twistd taskq"
    """The program that the user has called, for the help and for error messages."""

    longdesc = ""
    optParameters = [  # noqa: RUF012 - as usage.Options has it
        *([name, None, None, _help(each)] for name, each in SETTINGS.items() if not each.is_repeatable),
        ["config", "c", None, "TOML file with these options as keys; options win over it."],
    ]

    compData = usage.Completions(
        optActions={"state": usage.CompleteDirs(), "config": usage.CompleteFiles("*.toml")}
    )

    def __init__(self) -> None:
        super().__init__()
        for name, setting in SETTINGS.items():
            if setting.is_repeatable:
                self[name] = []

    def getSynopsis(self) -> str:
        """Return the first line of the help."""
        return f"Usage: {self.command.replace('twistd', 'twistd [options]')} [options]"

    def getUsage(self, width: int | None = None) -> str:
        """Return the help, followed by the description, which Twisted would format as one paragraph."""
        return f"{super().getUsage(width)}\n{DESCRIPTION}"

    def opt_version(self) -> None:
        """Print the version of taskqd and exit."""
        _print_and_exit(f"taskqd {__version__}")

    def opt_help(self) -> None:
        """Print this help and exit."""
        _print_and_exit(str(self))

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line; exit with 1 after a mistake (twistd before 26.10 exits with 0)."""
        try:
            super().parseOptions(options)
        except usage.UsageError as why:
            _refuse(f"{self.command}: {why}; see {self.command} --help")

    def postOptions(self) -> None:
        """Make the settings; exit with one line if one is wrong or the state directory is in use.

        If the state directory is not in use, a pid file must belong to a dead daemon and is removed.
        """
        try:
            self.settings = self._settings()
            _refuse_if_in_use(self.settings.state)
            parent: Any = self.parent or {}
            if parent.get("pidfile"):
                pid_file.remove_stale(parent["pidfile"])
        except StartRefused as why:
            _refuse(str(why))

    def _settings(self) -> Settings:
        given = {key: self[key] for key in SETTINGS if self[key] not in (None, [])}
        given = {key: check_option(key, value, self.command) for key, value in given.items()}
        file = {} if self["config"] is None else _read_config(self["config"])
        for values, source in ((given, self.command), (file, self["config"])):
            for endpoint in values.get("listen", ()):
                endpoints.check(_the_reactor(), endpoint, source)
        uid = os.geteuid()
        state = given.get("state", file.get("state"))
        if state is None:
            state = default_state(os.environ, uid)
            if not os.path.isabs(state):
                raise StartRefused(NO_HOME.format(uid=uid))
        defaults = {"state": state, "listen": (), "slots": len(os.sched_getaffinity(0))}
        settings = merge({**given, "state": os.path.abspath(state)}, file, defaults)
        return _with_default_socket(settings, f"unix:{default_socket(os.environ, uid, state)}")


def _with_default_socket(settings: Settings, endpoint: str) -> Settings:
    """Return the settings with the default UNIX socket, if they name none and do not refuse it."""
    if any(map(endpoints.is_local, settings.listen)):
        return settings
    if settings.default_socket:
        endpoints.check(_the_reactor(), endpoint, "the default")
        return replace(settings, listen=(endpoint, *settings.listen))
    if not settings.listen:
        raise SettingsError("there is nothing to listen on: give --listen, or leave out --no-default-socket")
    return settings


def _print_and_exit(text: str) -> NoReturn:
    """Print a text for the user, and exit without a traceback, also if its reader has gone."""
    try:
        print(text, flush=True)  # noqa: T201 - that is what it is for
    except OSError as why:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # else Python would write again, and complain
        sys.exit(BROKEN_PIPE if isinstance(why, BrokenPipeError) else f"taskqd: stdout: {why.strerror}")
    sys.exit(0)


def _refuse(text: str) -> NoReturn:
    """Exit with one line, which names the program once also if ``text`` begins with its name."""
    sys.exit(f"taskqd: {text.removeprefix('taskqd: ')}")


def _add_repeatable_option(name: str, setting: Setting) -> None:
    """Add a method to Options by which usage.Options collects the values of a repeatable option."""

    def collect(self: Options, text: str) -> None:
        self[name].append(text)

    collect.__doc__ = _help(setting)
    setattr(Options, f"opt_{name.replace('-', '_')}", collect)


def _add_no_option(name: str) -> None:
    """Add a method to Options for ``--no-NAME``."""

    def turn_off(self: Options) -> None:
        self[name] = "false"

    turn_off.__doc__ = f"The same as --{name}=false."
    setattr(Options, f"opt_no_{name.replace('-', '_')}", turn_off)


for _name, _setting in SETTINGS.items():
    if _setting.is_repeatable:
        _add_repeatable_option(_name, _setting)
    if _setting.is_boolean:
        _add_no_option(_name)


def _the_reactor() -> IReactor:
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

    return cast("IReactor", reactor)


def _read_config(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            return read_toml(file.read(), path)
    except (OSError, UnicodeDecodeError) as why:
        raise SettingsError(f"{path} cannot be read: {why}") from None


def _refuse_if_in_use(state: str) -> None:
    """Raise StartRefused if another daemon uses the state directory, before twistd checks its pid file."""
    try:
        check_unlocked(state)
    except OSError as why:
        raise StartRefused(
            f"the state directory {state} cannot be used: {why}; check its permissions and its disk"
        ) from None


def makeService(options: Options) -> TaskqService:
    """Return the daemon for these options, with nothing opened yet (twistd calls this)."""
    reactor = _the_reactor()
    use_monotonic(reactor)
    parent: Any = options.parent or {}
    uid, gid = parent.get("uid"), parent.get("gid")
    owner = None
    if uid is not None:
        owner = (uid, pwd.getpwuid(uid).pw_gid if gid is None else gid)
    return TaskqService(
        options.settings,
        reactor,
        owner,
        is_daemon=not parent.get("nodaemon", True),
        pid_file=parent.get("pidfile"),
        log_output=make_log_output(parent),
    )
