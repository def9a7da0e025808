"""Authentication by UNIX sockets and tokens, its observers, and the throttle."""

import os
import pwd
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.cred.credentials import Anonymous
from twisted.cred.error import UnhandledCredentials
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory

from taskqd.auth import throttle as throttling
from taskqd.auth import tokens
from taskqd.auth.authenticator import REFUSAL_DELAY, Authenticator, open_authenticator
from taskqd.auth.principal import IPrincipal, Principal
from taskqd.errors import AuthFailed, SettingsError
from taskqd.model.roles import Role
from tests.fakes.clocks import START, clock, in_thread
from tests.fakes.connections import FakeSocket
from tests.fakes.deferreds import error_of, result_of
from tests.support.authenticators import DAEMON, HERE, Site, TlsTransport, Transport, refused

UNKNOWN = "the token is unknown; ask the server's operator for one (`taskq token add`)"
UNNAMED = 4_000_000
"""A uid that has no name."""


# UNIX sockets.


@pytest.mark.parametrize(
    "uid, roles, expected",
    [
        (0, {}, Principal("root", Role.ADMIN, "pid 4711", uid=0)),
        (DAEMON, {}, Principal("4711", Role.ADMIN, "pid 4711", uid=DAEMON)),
        (UNNAMED, {}, Principal(str(UNNAMED), Role.SUBMIT, "pid 4711", uid=UNNAMED)),
        (UNNAMED, {"*": Role.ADMIN}, Principal(str(UNNAMED), Role.SUBMIT, "pid 4711", uid=UNNAMED)),
        (UNNAMED, {str(UNNAMED): Role.READ}, Principal(str(UNNAMED), Role.READ, "pid 4711", uid=UNNAMED)),
        (UNNAMED, {str(UNNAMED): Role.ADMIN}, Principal(str(UNNAMED), Role.ADMIN, "pid 4711", uid=UNNAMED)),
        (0, {"root": Role.READ}, Principal("root", Role.ADMIN, "pid 4711", uid=0)),
        (DAEMON, {str(DAEMON): Role.READ}, Principal("4711", Role.ADMIN, "pid 4711", uid=DAEMON)),
    ],
)
def test_identify_peer_returns_the_user_of_the_process(
    site: Site, uid: int, roles: dict[str, Role], expected: Principal
) -> None:
    assert site.open(roles).identify_peer(Transport(FakeSocket(uid=uid))) == expected


def test_identify_peer_of_real_unix_socket_returns_its_user(site: Site) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        uid = os.getuid()
        found = site.open().identify_peer(Transport(ours))
    assert found is not None
    assert (found.name, found.uid) == (pwd.getpwuid(uid).pw_name, uid)
    assert found.origin == f"pid {os.getpid()}"


def test_identify_peer_of_other_transports_is_none(site: Site) -> None:
    authenticator = site.open()
    for family in (socket.AF_INET, socket.AF_INET6):
        assert authenticator.identify_peer(Transport(FakeSocket(family))) is None
    assert authenticator.identify_peer(TlsTransport()) is None
    behind_a_proxy = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
    behind_a_proxy.makeConnection(Transport(FakeSocket()))
    assert authenticator.identify_peer(cast("ITransport", behind_a_proxy)) is None


# Tokens.


@pytest.mark.parametrize(
    "role, queue", [(Role.ADMIN, None), (Role.SUBMIT, None), (Role.SUBMIT, "q"), (Role.READ, "q")]
)
def test_authenticate_returns_the_principal_of_the_token(site: Site, role: Role, queue: str | None) -> None:
    text = site.add("ana", role, queue)
    found = result_of(site.open().authenticate(text, HERE))
    assert found == Principal("ana", role, HERE, queue, token=tokens.parse_token_id(text))


# Observers.


def test_observers_are_called_within_a_second_of_a_change(site: Site) -> None:
    site.add()
    authenticator = site.open()
    times: list[float] = []
    authenticator.add_observer(lambda: times.append(site.clock.now() - START))
    authenticator.start()
    site.clock.pump([0.5] * 10)
    assert times == []
    site.add("ana", expires_in=3)
    site.clock.pump([0.5] * 4)
    assert times == [6.0]
    site.clock.pump([0.5] * 4)
    assert times == [6.0, 8.0]  # the second is its expiry
    (site.state / "tokens").touch()
    site.clock.pump([0.5] * 10)
    assert times == [6.0, 8.0]
    authenticator.stop()
    site.add("ben")
    site.clock.pump([0.5] * 10)
    assert times == [6.0, 8.0]
    assert site.clock.getDelayedCalls() == []


def test_authenticator_stops_without_having_started(site: Site) -> None:
    site.open().stop()


# The throttle.


def test_host_with_ten_failures_is_refused_without_a_check(site: Site) -> None:
    text = site.add()
    authenticator = site.open()
    for number in range(throttling.MAX_FAILURES):
        refused(authenticator, f"wrong {number}", f"10.0.0.5:{number}")
        site.clock.advance(1)
    hashed = list(site.hashed)
    for other in ("wrong", f"{'0' * 8}.{'x' * 43}"):
        why = refused(authenticator, other, throttled=site)
        assert why.startswith("too many failed AUTHs from 10.0.0.5; try again in ")
    assert site.hashed == hashed
    assert result_of(authenticator.authenticate(text, "10.0.0.6:1")).name == "ci"
    site.clock.advance(50 - REFUSAL_DELAY)
    refused(authenticator, "wrong")
    assert refused(authenticator, "wrong") == "too many failed AUTHs from 10.0.0.5; try again in 1 s"


def test_token_that_matched_is_accepted_from_throttled_host(site: Site) -> None:
    text = site.add()
    authenticator = site.open()
    result_of(authenticator.authenticate(text, HERE))
    for number in range(throttling.MAX_FAILURES):
        refused(authenticator, f"wrong {number}")
    assert result_of(authenticator.authenticate(text, HERE)).name == "ci"
    assert refused(authenticator, "wrong").startswith("too many failed AUTHs")


def test_new_token_is_accepted_from_throttled_host(site: Site) -> None:
    first, second = site.add(), site.add()
    authenticator = site.open()
    for number in range(throttling.MAX_FAILURES):
        refused(authenticator, f"wrong {number}")
    assert result_of(authenticator.authenticate(first, HERE)).name == "ci"
    assert refused(authenticator, "wrong").startswith("too many failed AUTHs")
    assert result_of(authenticator.authenticate(second, HERE)).name == "ci"


def test_refusal_of_known_id_is_that_of_unknown_id(site: Site) -> None:
    identity = site.add().partition(".")[0]
    authenticator = site.open()
    for number in range(throttling.MAX_FAILURES):
        refused(authenticator, f"wrong {number}")
    for number in range(throttling.MAX_FAILURES_OF_TOKEN + 2):
        asked = [
            authenticator.authenticate(f"{claimed}.guess {number}", HERE) for claimed in (identity, "0" * 8)
        ]
        assert not any(each.called for each in asked), "both are answered at the same time"
        site.clock.advance(REFUSAL_DELAY)
        known, unknown = (str(error_of(each)) for each in asked)
        assert known == unknown
        assert known.startswith("too many failed AUTHs from 10.0.0.5")
    guesses = [text for text in site.hashed if text.startswith(f"{identity}.guess")]
    assert len(guesses) == throttling.MAX_FAILURES_OF_TOKEN


def test_auth_in_progress_counts_as_failure(site: Site) -> None:
    authenticator = site.open()
    site.is_ready = False
    asked = [authenticator.authenticate(f"wrong {number}", HERE) for number in range(throttling.MAX_FAILURES)]
    assert refused(authenticator, "one more") == "too many failed AUTHs from 10.0.0.5; try again in 1 s"
    site.threads.run()
    assert all(isinstance(error_of(each), AuthFailed) for each in asked)


def test_simultaneous_auths_with_one_token_share_one_hash(site: Site) -> None:
    text = site.add()
    authenticator = site.open()
    site.is_ready = False
    asked = [authenticator.authenticate(text, HERE) for _ in range(50)]
    site.threads.run()
    assert {result_of(each).name for each in asked} == {"ci"}
    assert site.hashed == [text]


def test_cancelled_auth_counts_as_failure(site: Site) -> None:
    authenticator = site.open()
    site.is_ready = False
    first = authenticator.authenticate("wrong", HERE)
    others = [
        authenticator.authenticate(f"wrong {number}", HERE) for number in range(throttling.MAX_FAILURES - 1)
    ]
    for each in others:
        each.cancel()
        assert isinstance(error_of(each), CancelledError)
    site.threads.run()
    assert isinstance(error_of(first), AuthFailed)
    assert site.hashed == ["wrong"]
    assert refused(authenticator, "wrong").startswith("too many failed AUTHs")


def test_busy_server_refuses_without_counting_a_failure(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskqd.auth.hash_cache.MAX_QUEUED_CHECKS", 2)
    text = site.add()
    authenticator = site.open()
    site.is_ready = False
    asked = [authenticator.authenticate(f"wrong {number}", f"10.0.1.{number}:1") for number in range(3)]
    for _ in range(20):
        assert refused(authenticator, text) == "too many tokens are being checked; try again in 2 s"
    site.threads.run()
    assert all(isinstance(error_of(each), AuthFailed) for each in asked)
    site.is_ready = True
    assert result_of(authenticator.authenticate(text, HERE)).name == "ci"


def test_failure_is_logged_with_address_and_without_token(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    text = site.add()
    authenticator = site.open()
    authenticator.start()
    for number in range(5):
        refused(authenticator, f"{text}{number}", f"10.0.0.5:{number}")
    result_of(authenticator.authenticate(text, HERE))
    failures = [line for line in caplog.messages if "AUTH" in line]
    assert failures == [f"AUTH from 10.0.0.5:0 failed: {UNKNOWN}"]
    site.clock.pump([1.0] * 60)
    assert caplog.messages[-1] == "4 more AUTHs from 10.0.0.5 failed"
    refused(authenticator, "x")
    authenticator.stop()
    assert caplog.messages[-1] == "1 more AUTHs from 10.0.0.5 failed"
    assert text.partition(".")[2] not in caplog.text


def test_internal_error_of_auth_counts_and_is_raised(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = site.open()

    def fail(*_: object) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(tokens, "matches", fail)
    assert isinstance(error_of(authenticator.authenticate("x", HERE)), ZeroDivisionError)


# twisted.cred.


def test_unknown_credentials_have_no_checker(site: Site) -> None:
    portal = site.open()._portal
    assert isinstance(error_of(portal.login(Anonymous(), None, IPrincipal)), UnhandledCredentials)


# open_authenticator.


def test_methods_lists_the_ways_to_authenticate(site: Site) -> None:
    assert site.open().methods == ["token"]
    authenticator = site.open(has_ca=True)
    assert authenticator.methods == ["token", "certificate"]
    assert authenticator.accepts_remote_clients


def make(site: Site, **more: Any) -> Authenticator:
    return open_authenticator(str(site.state), clock(), in_thread, uid=DAEMON, roles={}, **more)


def test_open_authenticator_uses_slow_hashes(tmp_path: Path) -> None:
    site = Site(tmp_path)
    text = site.add()
    authenticator = make(site)
    assert result_of(authenticator.authenticate(text, HERE)).name == "ci"
    assert refused(authenticator, "0123abcd.x").startswith("the token is unknown")
    site.file.revoke("ci")
    assert refused(authenticator, text).startswith("the token is unknown")


def test_open_authenticator_refuses_unknown_plugin(site: Site) -> None:
    with pytest.raises(SettingsError, match=r"auth: twisted\.cred has no plugin 'nonesuch'"):
        make(site, auth=("nonesuch:x",))
