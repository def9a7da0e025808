"""Checkers from plugins of twisted.cred."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from twisted.cred import strcred
from twisted.cred.checkers import ANONYMOUS
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred

import twisted.plugins
from taskqd.access import credentials as former
from taskqd.auth import credentials
from taskqd.auth.plugins import Plugin, PluginChecker, make_plugins
from taskqd.auth.principal import Principal
from taskqd.errors import SettingsError
from taskqd.model.roles import Role
from tests.fakes.deferreds import error_of, result_of
from tests.support import checker_plugin
from tests.support.authenticators import HERE, Site, refused
from tests.support.checker_plugin import ticket
from tests.support.leaks import LeakWatch

ROLES = {"ana": Role.ADMIN, "ben": Role.READ}
UNKNOWN = "the token is unknown; ask the server's operator for one (`taskq token add`)"


@pytest.fixture(name="users")
def a_file_of_users(tmp_path: Path) -> str:
    path = tmp_path / "users"
    path.write_text("ana:sesame\nben:open\neve:evil\ntwo words:x\n")
    return f"file:{path}"


@pytest.fixture(name="tickets")
def the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a setting for the example plugin, which is installed as an operator would do it."""
    place = tmp_path / "twisted" / "plugins"
    place.mkdir(parents=True)
    shutil.copy(checker_plugin.__file__, place / "ticket_plugin.py")
    monkeypatch.setattr(twisted.plugins, "__path__", [*twisted.plugins.__path__, str(place)])
    key = tmp_path / "key"
    key.write_bytes(b"key")
    return f"ticket:{key}"


class Fixed:
    """A checker that returns the avatar id that it is given."""

    def __init__(self, answer: Any, *interfaces: Any) -> None:
        self.credentialInterfaces = interfaces or (IUsernamePassword,)
        self.asked: list[Any] = []
        self._answer = answer

    def requestAvatarId(self, credentials: Any) -> Any:
        self.asked.append(credentials)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def fixed(answer: Any) -> Plugin:
    return Plugin("fixed", PluginChecker("fixed", Fixed(answer)))


def test_credentials_have_their_former_name_for_plugins_of_version_0_5() -> None:
    assert former.IToken is credentials.IToken
    assert former.Token is credentials.Token


# Names and passwords.


def test_password_authenticates_with_the_role_of_the_name(site: Site, users: str) -> None:
    authenticator = site.open(ROLES, make_plugins([users]))
    assert authenticator.methods == ["token", "file"]
    assert authenticator.accepts_remote_clients
    assert result_of(authenticator.authenticate("ana:sesame", HERE)) == Principal("ana", Role.ADMIN, HERE)
    assert result_of(authenticator.authenticate("ben:open", HERE)) == Principal("ben", Role.READ, HERE)
    assert site.hashed == []


@pytest.mark.parametrize("text", ["ana:wrong", "ana:", "eva:sesame", ":", "ben:open:", "ana:sésame"])
def test_wrong_password_is_refused(site: Site, users: str, text: str) -> None:
    authenticator = site.open(ROLES, make_plugins([users]))
    assert "the name or the password is wrong" in refused(authenticator, text)
    assert site.hashed == [text]


def test_name_without_role_is_refused_by_name(site: Site, users: str) -> None:
    authenticator = site.open(ROLES, make_plugins([users]))
    assert refused(authenticator, "eve:evil").startswith("eve has no role here; ask")
    assert "a name has 1 to 200" in refused(authenticator, "two words:x")
    others = site.open({"*": Role.SUBMIT}, make_plugins([users]))
    assert result_of(others.authenticate("eve:evil", HERE)).role is Role.SUBMIT


def test_tokens_are_valid_besides_passwords(site: Site, users: str) -> None:
    (site.state / "token").write_text("old:token")
    (site.state / "token").chmod(0o600)
    text = site.add()
    plugin = make_plugins([users])
    authenticator = site.open(ROLES, plugin)
    assert result_of(authenticator.authenticate(text, HERE)).name == "ci"
    assert result_of(authenticator.authenticate("old:token", HERE)).name == "token"
    assert refused(authenticator, "x") == UNKNOWN


def test_text_in_token_format_is_not_a_password(site: Site) -> None:
    checker = Fixed(b"ana")
    authenticator = site.open(ROLES, [Plugin("fixed", PluginChecker("fixed", checker))])
    assert refused(authenticator, "0123abcd.x:y") == UNKNOWN
    assert checker.asked == []


def test_password_may_contain_colons(site: Site) -> None:
    checker = Fixed(b"ana")
    authenticator = site.open(ROLES, [Plugin("fixed", PluginChecker("fixed", checker))])
    result_of(authenticator.authenticate("ana:open:sésame", HERE))
    (asked,) = checker.asked
    assert (asked.username, asked.password) == (b"ana", "open:sésame".encode())


def test_first_checker_that_accepts_counts(site: Site) -> None:
    plugins = [fixed(UnauthorizedLogin("first")), fixed(b"ben"), fixed(b"ana")]
    assert result_of(site.open(ROLES, plugins).authenticate("x:y", HERE)).name == "ben"
    plugins = [fixed(UnauthorizedLogin("first")), fixed(UnauthorizedLogin("second"))]
    authenticator = site.open(ROLES, plugins)
    assert refused(authenticator, "x:y") == "first"
    assert authenticator.methods == ["token", "fixed"]


def test_wrong_passwords_are_throttled(site: Site, users: str) -> None:
    authenticator = site.open(ROLES, make_plugins([users]))
    for number in range(10):
        refused(authenticator, f"ana:{number}")
    assert refused(authenticator, "ana:sesame").startswith("too many failed AUTHs from 10.0.0.5")


def test_checker_may_answer_later_and_be_cancelled(site: Site) -> None:
    cancelled: list[Any] = []
    authenticator = site.open(ROLES, [fixed(Deferred(cancelled.append))])
    asked = authenticator.authenticate("x:y", HERE)
    asked.cancel()
    error_of(asked)
    assert len(cancelled) == 1


@pytest.mark.parametrize("answer", [ANONYMOUS, b"\xff", None, 7])
def test_avatar_id_that_is_no_name_is_refused(site: Site, answer: Any) -> None:
    authenticator = site.open({"*": Role.ADMIN}, [fixed(answer)])
    assert refused(authenticator, "x:y") == "the user has no name that is text"


def test_avatar_id_may_be_text(site: Site) -> None:
    assert result_of(site.open(ROLES, [fixed("ana")]).authenticate("x:y", HERE)).name == "ana"


def test_failing_checker_refuses_and_is_logged(site: Site, logged_errors: LeakWatch) -> None:
    authenticator = site.open(ROLES, [fixed(ZeroDivisionError())])
    assert refused(authenticator, "x:y") == "authentication is not possible now; see the daemon's log"
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


# A plugin of the operator.


def test_plugin_of_itoken_is_asked_about_any_text(site: Site, tickets: str) -> None:
    text = site.add()
    authenticator = site.open(ROLES, make_plugins([tickets]))
    assert authenticator.methods == ["token", "ticket"]
    found = result_of(authenticator.authenticate(ticket(b"key", "ana"), HERE))
    assert found == Principal("ana", Role.ADMIN, HERE)
    assert refused(authenticator, ticket(b"another key", "ana")) == UNKNOWN
    assert refused(authenticator, ticket(b"key", "eve")).startswith("eve has no role here")
    assert result_of(authenticator.authenticate(text, HERE)).name == "ci"


def test_several_plugins_work_together(site: Site, tickets: str, users: str) -> None:
    authenticator = site.open(ROLES, make_plugins([tickets, users]))
    assert authenticator.methods == ["token", "ticket", "file"]
    assert result_of(authenticator.authenticate("ana:sesame", HERE)).name == "ana"
    assert result_of(authenticator.authenticate(ticket(b"key", "ben"), HERE)).name == "ben"


# Invalid settings.


@pytest.mark.parametrize(
    "string, why",
    [
        (
            "nonesuch:secret",
            "auth: twisted.cred has no plugin 'nonesuch'; the plugins that can be used",
        ),
        ("", "auth: twisted.cred has no plugin ''"),
        (
            "anonymous",
            "auth: the checker 'anonymous' supports IAnonymous, but it must support IUsernamePassword",
        ),
        ("file", "auth: the plugin 'file' does not accept the argument after its name: "),
        ("memory:secret", "auth: the plugin 'memory' does not accept the argument after its name: "),
    ],
)
def test_invalid_auth_setting_is_refused_without_its_argument(string: str, why: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        make_plugins([string])
    assert str(refusal.value).startswith(why)
    assert "secret" not in str(refusal.value)


def test_error_lists_usable_plugins(tickets: str) -> None:
    with pytest.raises(SettingsError, match=r"can be used are file, memory, ticket, unix"):
        make_plugins(["nonesuch"])


def test_error_says_that_there_are_no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strcred, "findCheckerFactories", lambda: iter(()))
    with pytest.raises(SettingsError, match="can be used are none"):
        make_plugins(["file:x"])
