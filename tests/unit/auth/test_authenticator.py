"""Authentication by UNIX sockets and tokens, and the validity of principals."""

import os
import pwd
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.cred.credentials import Anonymous
from twisted.cred.error import UnhandledCredentials
from twisted.internet.defer import CancelledError, succeed
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory

from taskqd.auth import throttle as throttling
from taskqd.auth import token_codec, tokens
from taskqd.auth.authenticator import REFUSAL_DELAY, Authenticator, open_authenticator
from taskqd.auth.principal import IPrincipal, Principal, user_name
from taskqd.auth.realm import NoRole
from taskqd.errors import AuthFailed, SettingsError, StartRefused
from taskqd.model.actor import Actor
from taskqd.model.roles import Role
from tests.fakes.clocks import START, clock, in_thread
from tests.fakes.connections import FakeSocket
from tests.fakes.deferreds import error_of, result_of
from tests.support.authenticators import DAEMON, Site, TlsTransport, Transport, cheap

HERE = "10.0.0.5:4242"
UNKNOWN = "the token is unknown; ask the server's operator for one (`taskq token add`)"
UNNAMED = 4_000_000
"""A uid that has no name."""


@pytest.fixture(name="site")
def a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(tokens, "hash_token", cheap)
    monkeypatch.setattr(token_codec, "_MIN_COST", (1, 1, 1))
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return Site(state)


def refused(
    authenticator: Authenticator, text: str, address: str = HERE, throttled: "Site | None" = None
) -> str:
    asked = authenticator.authenticate(text, address)
    if not asked.called and throttled is not None:
        throttled.clock.advance(REFUSAL_DELAY)
    error = error_of(asked)
    assert isinstance(error, AuthFailed)
    return str(error)


# Principals.


def test_principal_is_an_avatar_and_has_an_actor() -> None:
    ana = Principal("ana", Role.READ, HERE)
    assert IPrincipal.providedBy(ana)
    assert ana.actor == Actor("ana", HERE)


def test_user_name_of_unknown_uid_is_its_number() -> None:
    assert user_name(0) == "root"
    assert user_name(UNNAMED) == str(UNNAMED)


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


def test_token_of_older_version_is_imported_as_admin(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    (site.state / "token").write_text("sesame\n")
    (site.state / "token").chmod(0o600)
    authenticator = site.open()
    assert "may be removed once no client" in caplog.text
    assert "sesame" not in caplog.text
    found = result_of(authenticator.authenticate("sesame", HERE))
    assert (found.name, found.role) == ("token", Role.ADMIN)
    assert refused(authenticator, "sesam") == refused(authenticator, "0123abcd.x")


@pytest.mark.parametrize("change", ["cut", "longer", "other id", "no id", "upper"])
def test_wrong_token_is_refused_without_revealing_the_right_one(site: Site, change: str) -> None:
    text = site.add()
    identity, _, secret = text.partition(".")
    changed = {
        "cut": text[:-1],
        "longer": text + "x",
        "other id": f"0{identity}.{secret}",
        "no id": secret,
        "upper": f"{identity}.{secret.swapcase()}",
    }
    why = refused(site.open(), changed[change])
    assert why == UNKNOWN


@pytest.mark.parametrize(
    "text", ["", "é", "x" * 60_000, "0123abcd.", "ana:secret", "\udcff", "0123abcd.\udcff"]
)
def test_text_that_is_no_token_is_refused(site: Site, text: str) -> None:
    site.add()
    assert refused(site.open(), text).startswith("the token is unknown")


def test_authenticate_computes_one_slow_hash_with_or_without_entry(site: Site) -> None:
    text = site.add()
    authenticator = site.open()
    for number, each in enumerate((text, f"{tokens.parse_token_id(text)}.x", "0123abcd.x", "x", ""), 1):
        authenticator.authenticate(each, HERE).addErrback(lambda _: None)
        assert site.hashed[-1] == each
        assert len(site.hashed) == number


def test_token_that_matched_needs_no_hash_the_next_time(site: Site) -> None:
    text = site.add()
    authenticator = site.open()
    first = result_of(authenticator.authenticate(text, HERE))
    assert result_of(authenticator.authenticate(text, "10.0.0.6:1"))._replace(origin=HERE) == first
    assert site.hashed == [text]
    refused(authenticator, text + "x")
    assert len(site.hashed) == 2


def test_token_is_valid_until_it_expires(site: Site) -> None:
    text = site.add(expires_in=10)
    authenticator = site.open()
    principal = result_of(authenticator.authenticate(text, HERE))
    site.clock.advance(9.9)
    assert authenticator.is_valid(principal)
    result_of(authenticator.authenticate(text, HERE))
    site.clock.advance(0.1)
    assert not authenticator.is_valid(principal)
    assert refused(authenticator, text).startswith("the token has expired; ")
    assert refused(authenticator, text + "x").startswith("the token is unknown")


# Changes of the token file.


def test_token_added_while_running_is_valid_at_once(site: Site) -> None:
    authenticator = site.open()
    assert not authenticator.accepts_remote_clients
    text = site.add()
    assert result_of(authenticator.authenticate(text, HERE)).name == "ci"
    assert authenticator.accepts_remote_clients


def test_token_revoked_while_running_is_refused_at_once(site: Site) -> None:
    text, other = site.add(), site.add("ana")
    authenticator = site.open()
    mine, theirs = (result_of(authenticator.authenticate(each, HERE)) for each in (text, other))
    site.file.revoke("ci")
    assert refused(authenticator, text).startswith("the token is unknown")
    assert not authenticator.is_valid(mine)
    assert authenticator.is_valid(theirs)


def test_token_revoked_during_its_check_is_refused(site: Site) -> None:
    text = site.add()
    authenticator = site.open()
    site.is_ready = False
    asked = authenticator.authenticate(text, HERE)
    site.file.revoke("ci")
    authenticator.start()
    site.clock.advance(1)
    authenticator.stop()
    site.threads.run()
    assert isinstance(error_of(asked), AuthFailed)


@pytest.mark.parametrize(
    "change",
    [{"name": "ben"}, {"role": Role.ADMIN}, {"queue": "q"}, {"expires_at": START}, {"hash": None}],
)
def test_principal_of_changed_entry_is_not_valid(site: Site, change: dict[str, Any]) -> None:
    text = site.add()
    authenticator = site.open()
    principal = result_of(authenticator.authenticate(text, HERE))
    seen: list[bool] = []
    authenticator.add_observer(lambda: seen.append(authenticator.is_valid(principal)))
    authenticator.start()
    (entry,) = site.file.read()
    if "hash" in change:
        change = {"hash": cheap("another", b"salt" * 4)}
    (site.state / "tokens").write_bytes(token_codec.encode_entries([entry._replace(**change)]))
    site.clock.advance(1)
    assert seen == [False]
    authenticator.stop()


def test_principal_without_token_stays_valid(site: Site) -> None:
    authenticator = site.open()
    assert authenticator.is_valid(Principal("root", Role.ADMIN, uid=0))
    assert authenticator.is_valid(Principal("ana", Role.SUBMIT, HERE))


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


@pytest.mark.parametrize("flaw", ["mode", "line"])
def test_invalid_token_file_refuses_all_until_it_is_corrected(
    site: Site, flaw: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = site.add()
    authenticator = site.open()
    principal = result_of(authenticator.authenticate(text, HERE))
    path = site.state / "tokens"
    good = path.read_bytes()
    if flaw == "mode":
        path.chmod(0o644)
    else:
        path.write_bytes(good + b"x\n")
    for _ in range(2):
        assert refused(authenticator, text).startswith("the token is unknown")
    assert not authenticator.is_valid(principal)
    assert caplog.text.count("is invalid, so no token is valid until it is corrected: ") == 1
    path.chmod(0o600)
    path.write_bytes(good)
    assert result_of(authenticator.authenticate(text, HERE)) == principal
    assert authenticator.is_valid(principal)


def test_unreadable_token_file_keeps_the_known_tokens(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = site.add()
    authenticator = site.open()
    result_of(authenticator.authenticate(text, HERE))
    other = site.add("ana")

    def fail() -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(site.file, "read", fail)
        for _ in range(2):
            refused(authenticator, other)
        assert result_of(authenticator.authenticate(text, HERE)).name == "ci"
    assert (
        caplog.text.count(
            "cannot be read, so the tokens known before stay valid: [Errno 24] Too many open files"
        )
        == 1
    )
    assert result_of(authenticator.authenticate(other, HERE)).name == "ana"


def test_removed_token_file_refuses_all(site: Site) -> None:
    text = site.add()
    authenticator = site.open()
    principal = result_of(authenticator.authenticate(text, HERE))
    (site.state / "tokens").unlink()
    refused(authenticator, text)
    assert not authenticator.is_valid(principal)


@pytest.mark.parametrize("name", ["tokens", "token"])
def test_token_file_readable_by_others_refuses_the_start(site: Site, name: str) -> None:
    (site.state / name).write_text("sesame")
    (site.state / name).chmod(0o640)
    with pytest.raises(StartRefused, match=f"chmod 600 {site.state}/{name}"):
        site.open()


def test_unreadable_token_file_refuses_the_start(site: Site) -> None:
    (site.state / "tokens").symlink_to("/etc/passwd")
    with pytest.raises(StartRefused, match=f"the tokens in {site.state}/tokens cannot be read: "):
        site.open()


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


# The parts of twisted.cred.


def test_realm_has_avatars_only_for_iprincipal(site: Site) -> None:
    authenticator = site.open()
    with pytest.raises(NotImplementedError):
        authenticator._portal.realm.requestAvatar(b"uid:0", None)
    found = authenticator._portal.realm.requestAvatar(b"uid:0", None, IPrincipal)
    assert isinstance(found, tuple)
    interface, principal, leave = found
    assert interface is IPrincipal
    assert principal == Principal("root", Role.ADMIN, uid=0)
    leave()


def test_user_of_plugin_cannot_pass_for_another_kind(site: Site) -> None:
    text = site.add("ana", Role.ADMIN)
    authenticator = site.open({"*": Role.READ})
    realm = authenticator._portal.realm
    for name in ("uid:0", f"token:{tokens.parse_token_id(text)}"):
        _, principal, _ = result_of(succeed(realm.requestAvatar(f"name:{name}".encode(), None, IPrincipal)))
        assert principal == Principal(name, Role.READ)


@pytest.mark.parametrize(
    "name, roles, role",
    [
        ("ana", {"ana": Role.ADMIN, "*": Role.READ}, Role.ADMIN),
        ("ben", {"ana": Role.ADMIN, "*": Role.READ}, Role.READ),
        ("ben", {"ana": Role.ADMIN}, None),
        ("", {"*": Role.READ}, None),
        ("two words", {"*": Role.READ}, None),
        ("x\r\nOK", {"*": Role.READ}, None),
        ("*", {"*": Role.READ}, None),
    ],
)
def test_name_has_the_role_of_the_settings(
    site: Site, name: str, roles: dict[str, Role], role: Role | None
) -> None:
    realm = site.open(roles)._portal.realm
    if role is None:
        with pytest.raises(NoRole):
            realm.requestAvatar(b"name:" + name.encode(), None, IPrincipal)
    else:
        found = realm.requestAvatar(b"name:" + name.encode(), HERE, IPrincipal)
        assert found == (IPrincipal, Principal(name, role, HERE), found[2])  # type: ignore[index]


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
