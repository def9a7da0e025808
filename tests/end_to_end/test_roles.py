"""docs/security.md's table over real sockets: real other uids at a UNIX socket, tokens over TCP."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from taskqd.wire import VERBS
from tests import others
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire

LINES = {
    **{verb: verb for verb in ("HELLO", "PING", "STATS", "QUEUES", "LIST", "SCHEDULES")},
    **{verb: f"{verb} {{job}}" for verb in ("STATUS", "SHOW", "HISTORY", "WHY", "HOLD", "RELEASE")},
    "HELP": "HELP PING",
    "AUTH": "AUTH wrong",
    "QUIT": "QUIT",
    "RESULT": "RESULT {ended}",
    "OUTPUT": "OUTPUT {ended} stdout",
    "WAIT": "WAIT {ended}",
    "FOLLOW": "FOLLOW {ended}",
    "WATCH": "WATCH --job={job}",
    "SET": "SET {job} --label=x",
    "CANCEL": "CANCEL {job}",
    "RETRY": "RETRY {ended}",
    "REMOVE": "REMOVE {ended}",
    "UNSCHEDULE": "UNSCHEDULE {schedule}",
    "PAUSE": "PAUSE --schedule={schedule}",
    "RESUME": "RESUME --schedule={schedule}",
    "SUBMIT": "SUBMIT --hold true",
    "SCHEDULE": "SCHEDULE --every=1h true",
    "SET-QUEUE": "SET-QUEUE q --slots=2",
    "DRAIN": "DRAIN",
}
"""A request of each verb, about somebody's pending job, ended job or schedule."""
FOR_EVERYBODY = {"HELLO", "PING", "HELP", "AUTH", "QUIT", "STATS", "QUEUES", "LIST", "SCHEDULES"}
LOOKS = {"STATUS", "SHOW", "HISTORY", "WHY", "RESULT", "OUTPUT", "WAIT", "FOLLOW", "WATCH"}
RULES = {"SET-QUEUE", "DRAIN"}
NEW = {"SUBMIT", "SCHEDULE"}


class Site:
    """A daemon with a socket for everybody, and what each who asks there has."""

    def __init__(self, daemon: Daemon, everybody: Path, stack: ExitStack) -> None:
        self._daemon = daemon
        self._everybody = everybody
        self._stack = stack

    def user(self, name: str) -> Wire:
        """Connect as a user of this machine."""
        connection = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        with others.acting(others.user(name)):
            connection.connect(str(self._everybody))
        return Wire(connection)

    def root(self) -> Wire:
        return self._daemon.connect()

    def token(self, name: str, role: str) -> Wire:
        """Connect over TCP with a token."""
        wire = self._daemon.connect_tcp(authenticate=False)
        assert wire.ask(f"AUTH {self._daemon.make_token(name, '--role', role)}") == f"OK {name} {role}"
        return wire


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        place = stack.enter_context(others.open_place())
        everybody = place / "socket"
        options = ("--listen", f"unix:{everybody}:mode=666")
        daemon = Daemon(tmp_path_factory.mktemp("roles"), *options, tcp=True)
        stack.callback(daemon.close)
        yield Site(daemon.start(), everybody, stack)


def things_of(owner: Wire) -> dict[str, str]:
    """Give somebody a pending job, an ended one and a schedule, and return their numbers."""
    ended = owner.submit("true")
    owner.wait(ended)
    job = owner.submit("--hold true")
    return {
        "ended": str(ended),
        "job": str(job),
        "schedule": owner.ask("SCHEDULE --every=1h true").split()[1],
    }


def is_let(wire: Wire, verb: str, things: dict[str, str]) -> bool:
    answer = wire.ask(LINES[verb].format(**things))
    assert answer.split()[0] != "ERROR" or answer.split()[1] in ("FORBIDDEN", "AUTH_FAILED"), (verb, answer)
    return not answer.startswith("ERROR FORBIDDEN")


def test_there_is_a_request_of_every_verb() -> None:
    assert set(LINES) == set(VERBS)
    assert set(VERBS) > FOR_EVERYBODY | LOOKS | RULES | NEW


@others.only_root
@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"DRAIN"}))
def test_each_verb_of_each_role_on_one_s_own_and_on_another_s(site: Site, verb: str) -> None:
    """Own, another user's, a reader's look and root's word, each on new jobs of games' and nobody's."""
    games, nobody = site.user("games"), site.user("nobody")
    is_rule, is_look, is_free = verb in RULES, verb in LOOKS, verb in FOR_EVERYBODY
    own, theirs = things_of(games), things_of(nobody)
    found = {
        "own": is_let(site.user("games"), verb, own),
        "another's": is_let(site.user("games"), verb, theirs),
        "read": is_let(site.token("reader", "read"), verb, theirs),
        "root": is_let(site.root(), verb, theirs),
    }
    is_new = verb in NEW
    assert found == {
        "own": not is_rule,
        "another's": is_free or is_new,
        "read": is_free or is_look,
        "root": True,
    }


@others.only_root
def test_only_an_admin_drains_and_a_queue_s_pause_is_the_admins(site: Site) -> None:
    for wire in (site.user("games"), site.token("ann", "submit"), site.token("reader", "read")):
        for line in ("DRAIN", "PAUSE", "RESUME", "PAUSE q", "RESUME q"):
            assert wire.ask(line).startswith("ERROR FORBIDDEN "), line
    assert site.root().ask("STATS").startswith("STATS ")


@others.only_root
def test_hello_says_who_one_is(site: Site) -> None:
    for wire, name, role in (
        (site.user("games"), "games", "submit"),
        (site.root(), "root", "admin"),
        (site.token("reader", "read"), "reader", "read"),
    ):
        you = json.loads(wire.ask("HELLO").removeprefix("TASKQ 1 "))["you"]
        assert (you["name"], you["role"]) == (name, role)
        assert you["from"].startswith(("pid ", "127.0.0.1:"))


@others.only_root
def test_a_second_user_s_attempts_leave_no_trace(site: Site) -> None:
    games = site.user("games")
    things = things_of(games)
    before = [games.ask(f"SHOW {things[which]}") for which in ("job", "ended")]
    eve = site.user("nobody")
    for verb in sorted(set(VERBS) - FOR_EVERYBODY - NEW - {"QUIT"}):
        assert not is_let(eve, verb, things), verb
    assert [games.ask(f"SHOW {things[which]}") for which in ("job", "ended")] == before
    assert all(job["owner"] == "nobody" for job in eve.list("--limit=1000"))


@others.only_root
def test_who_did_what_is_in_the_journal_and_in_the_log(site: Site) -> None:
    games = site.user("games")
    job = games.submit("--hold true")
    root = site.root()
    root.ask(f"CANCEL {job}")
    root.send(f"HISTORY {job}\r\n".encode())
    told = [root.line() for _ in range(3)]
    assert '"owner":"games"' in told[0]
    assert '"from":"pid ' in told[0]
    assert '"by":"root"' in told[1]
    assert '"from":"pid ' in told[1]
    assert f") cancelled job {job}" in site._daemon.log
