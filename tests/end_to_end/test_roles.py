"""The table of roles of docs/security.md, with real users on a UNIX socket and tokens over TCP."""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from taskqd.execution.users import User
from taskqd.protocol.verbs import VERBS
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.wire import Wire, until
from tests.support import other_users
from tests.support.every_verb import EVERYBODY, LINES, LISTS, NEW, WHO, code_for

NAMELESS = User("4000001", 4_000_001, 4_000_001, "/")
"""A user without an entry in passwd."""


class Site:
    """A daemon with a socket for everybody, and connections as different users."""

    def __init__(self, daemon: Daemon, everybody: Path, stack: ExitStack) -> None:
        self.daemon = daemon
        self.everybody = everybody
        self._stack = stack
        self._tokens: dict[tuple[str, str], str] = {}

    def user(self, who: str | User) -> Wire:
        """Connect as a user of this machine."""
        connection = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        with other_users.acting(other_users.user(who) if isinstance(who, str) else who):
            connection.connect(str(self.everybody))
        return Wire(connection)

    def root(self) -> Wire:
        return self.daemon.connect()

    def stranger(self) -> Wire:
        return self.daemon.connect_tcp(authenticate=False)

    def token(self, name: str, role: str, *more: str) -> Wire:
        """Connect over TCP with a token, which is made at the first call."""
        key = (name, " ".join((role, *more)))
        if key not in self._tokens:
            self._tokens[key] = self.daemon.make_token(name, "--role", role, *more)
        wire = self.stranger()
        assert wire.ask(f"AUTH {self._tokens[key]}") == f"OK {name} {role}"
        return wire

    def who(self, who: str) -> Wire:
        """Connect as one of WHO."""
        match who:
            case "a stranger":
                return self.stranger()
            case "a reader":
                return self.token("reader", "read")
            case "an owner who may only read":
                return self.token("games", "read")
            case "another":
                return self.user(NAMELESS)
            case "the owner":
                return self.user("games")
            case _:
                return self.root()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        place = stack.enter_context(other_users.open_place())
        everybody = place / "socket"
        options = ("--listen", f"unix:{everybody}:mode=666")
        daemon = Daemon(tmp_path_factory.mktemp("roles"), *options, tcp=True)
        try:
            yield Site(daemon.start(), everybody, stack)
        finally:
            complaints = daemon.close()
        if complaints:
            pytest.fail("\n".join(complaints), pytrace=False)


def things_of(owner: Wire) -> dict[str, str]:
    """Make a pending job, an ended one and a schedule of an owner, and return their numbers."""
    ended = owner.submit("true")
    owner.wait(ended)
    job = owner.submit("--hold true")
    return {
        "ended": str(ended),
        "job": str(job),
        "schedule": owner.ask("SCHEDULE --every=1h true").split()[1],
    }


def refusal(wire: Wire, verb: str, things: dict[str, str]) -> str | None:
    """Return the code if a request is refused because of the client's identity, else None."""
    word, code, *_ = f"{wire.ask(LINES[verb].format(**things))} -".split()
    if word != "ERROR" or (verb, code) == ("AUTH", "AUTH_FAILED"):
        return None
    if code == "WRONG_STATE" and verb in ("SEND", "SUSPEND", "CONTINUE"):  # the job does not run
        return None
    assert code in ("FORBIDDEN", "AUTH_REQUIRED"), (verb, code)
    return code


@other_users.only_root
@pytest.mark.parametrize("verb", VERBS)
def test_verb_is_refused_or_allowed_by_role_and_owner(site: Site, verb: str) -> None:
    # Clients that must be refused come first, while the things that they ask for still exist.
    games, by_token = site.user("games"), site.token("ann", "submit")
    things, more = things_of(games), things_of(by_token)
    asking = [who for who in WHO if verb not in ("DRAIN", "SHUTDOWN") or who != "an admin"]
    found = {
        who: refusal(site.who(who), verb, more if who == "an admin" else things)
        for who in sorted(asking, key=lambda who: code_for(verb, who) is None)
    }
    assert found == {who: code_for(verb, who) for who in asking}
    assert refusal(by_token, verb, things_of(by_token)) == code_for(verb, "the owner")


@other_users.only_root
def test_drain_and_pause_need_an_admin(site: Site) -> None:
    for wire in (site.user("games"), site.token("ann", "submit"), site.token("reader", "read")):
        for line in ("DRAIN", "SHUTDOWN", "PAUSE", "RESUME", "PAUSE q", "RESUME q"):
            assert wire.ask(line).startswith("ERROR FORBIDDEN "), line
    assert site.root().ask("STATS").startswith("STATS ")


@other_users.only_root
def test_hello_has_name_and_role_of_the_client(site: Site) -> None:
    for wire, name, role in (
        (site.user("games"), "games", "submit"),
        (site.root(), "root", "admin"),
        (site.token("reader", "read"), "reader", "read"),
    ):
        you = json.loads(wire.ask("HELLO").removeprefix("TASKQ 1 "))["you"]
        assert (you["name"], you["role"]) == (name, role)
        assert you["from"].startswith(("pid ", "127.0.0.1:"))


@other_users.only_root
def test_peer_of_unix_socket_is_identified_by_the_kernel(site: Site) -> None:
    # A child process that has never been root and sends no AUTH.
    code = f"""
import os, socket
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({str(site.everybody)!r})
    connection.sendall(b"HELLO\\r\\nSUBMIT --hold true\\r\\nQUIT\\r\\n")
    print(os.getpid(), connection.makefile().read())
"""
    for name in other_users.NAMES:
        with other_users.process(other_users.user(name), code) as stdout:
            pid, hello, submitted, *_ = stdout.read().replace("TASKQ 1 ", "\n", 1).splitlines()
        you = json.loads(hello)["you"]
        assert you == {"name": name, "role": "submit", "from": f"pid {pid.strip()}"}
        assert site.root().show(submitted.split()[1])["owner"] == name


@other_users.only_root
def test_user_without_a_name_is_identified_by_number(site: Site) -> None:
    wire = site.user(NAMELESS)
    job = wire.submit("--hold true")
    assert wire.show(job)["owner"] == "4000001"
    assert wire.ask(f"CANCEL {job}").startswith("STATUS CANCELLED")


@other_users.only_root
def test_token_for_one_queue_is_limited_to_its_jobs(site: Site) -> None:
    wire, ci = site.user("daemon"), site.token("daemon", "submit", "--queue", "ci")
    elsewhere = wire.submit("--hold true")
    for line in ("SUBMIT true", "SUBMIT --queue=ci --after={0} true", "STATUS {0}", "CANCEL {0}", "PAUSE ci"):
        assert ci.ask(line.format(elsewhere)).startswith("ERROR FORBIDDEN "), line
    job = ci.submit("--queue=ci --hold true")
    assert [each["id"] for each in ci.list()] == [job]
    assert ci.ask(f"SET {job} --queue=default").startswith("ERROR FORBIDDEN ")
    wire.submit(f"--after={job} true")
    assert ci.ask(f"CANCEL {job} --cascade").startswith("ERROR FORBIDDEN ")
    assert json.loads(ci.ask("HELLO").removeprefix("TASKQ 1 "))["you"]["queue"] == "ci"


def test_watch_of_a_submitter_shows_only_their_own_jobs(site: Site) -> None:
    ann, reader, root = site.token("ann", "submit"), site.token("reader", "read"), site.root()
    for wire in (ann, reader):
        wire.send(b"WATCH\r\n")
        assert wire.line().startswith("OK ")
    theirs = root.submit("--hold true")
    hers = site.token("ann", "submit").submit("--hold true")
    assert ann.event()["id"] == hers
    assert [reader.event()["id"] for _ in range(2)] == [theirs, hers]


@other_users.only_root
def test_refused_requests_of_another_user_change_nothing(site: Site) -> None:
    games = site.user("games")
    things = things_of(games)
    before = [games.ask(f"SHOW {things[which]}") for which in ("job", "ended")]
    eve = site.user("mail")
    for verb in sorted(set(VERBS) - {*EVERYBODY, *LISTS, *NEW}):
        assert refusal(eve, verb, things) == "FORBIDDEN", verb
    assert [games.ask(f"SHOW {things[which]}") for which in ("job", "ended")] == before
    assert all(job["owner"] == "mail" for job in eve.list("--limit=1000"))


@other_users.only_root
def test_actor_and_origin_are_in_journal_and_log(site: Site) -> None:
    games = site.user("games")
    job = games.submit("--hold true")
    root = site.root()
    root.ask(f"CANCEL {job}")
    root.send(f"HISTORY {job}\r\n".encode())
    events = [root.line() for _ in range(3)]
    assert '"owner":"games"' in events[0]
    assert '"from":"pid ' in events[0]
    assert '"by":"root"' in events[1]
    assert '"from":"pid ' in events[1]
    line = re.compile(rf"root \(pid {os.getpid()}\) cancelled (\d+ more, .* to )?job {job}\n")
    until(lambda: line.search(site.daemon.log), "the line in the log, which may be a second later")
