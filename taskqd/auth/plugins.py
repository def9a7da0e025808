"""Checkers from plugins of twisted.cred (strcred), which an operator adds with the setting `auth`.

`file:/etc/taskqd/users` is Twisted's plugin `file` with the argument after the colon. A checker of
IUsernamePassword is asked about `AUTH name:password`, one of taskqd's IToken about any AUTH. The users that
it accepts have the roles of their names in `[roles]`.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from twisted.cred import strcred
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskqd.auth.checkers import AvatarId
from taskqd.auth.credentials import IToken
from taskqd.auth.realm import NAME, make_avatar_id
from taskqd.errors import SettingsError

CREDENTIALS = (IToken, IUsernamePassword)
"""The credentials about which plugins are asked."""


@implementer(ICredentialsChecker)
class PluginChecker:
    """The checker of the plugin `name`; its users are of the kind `name:`."""

    _log = Logger()

    def __init__(self, name: str, checker: Any) -> None:
        self._name = name
        self.credentialInterfaces = tuple(
            each for each in CREDENTIALS if each in checker.credentialInterfaces
        )
        self._checker = checker

    def requestAvatarId(self, credentials: Any) -> AvatarId:
        """Fire with the user's name; fails with LoginFailed, even if the plugin fails in another way."""
        checked = maybeDeferred(self._checker.requestAvatarId, credentials)
        return checked.addCallback(_convert_avatar_id).addErrback(self._convert_failure)

    def _convert_failure(self, failure: Failure) -> Any:
        if failure.check(LoginFailed, CancelledError):
            return failure
        self._log.failure("the checker {name} of the setting auth failed", failure, name=self._name)
        raise UnauthorizedLogin("authentication is not possible now; see the daemon's log")


def _convert_avatar_id(avatar_id: Any) -> bytes | tuple[()]:
    try:
        name = avatar_id if isinstance(avatar_id, str) else avatar_id.decode("utf-8")
    except (AttributeError, UnicodeDecodeError):  # ANONYMOUS is an empty tuple
        raise UnauthorizedLogin("the user has no name that is text") from None
    return make_avatar_id(NAME, name)


class Plugin(NamedTuple):
    """A checker, and the name of its plugin."""

    name: str
    checker: PluginChecker


def make_plugins(strings: Iterable[str]) -> list[Plugin]:
    """Return the checkers of the setting `auth`; raises SettingsError if one cannot be made.

    An error contains only the first word of a string: the rest may be secret (`memory:name:password`).
    """
    return [_make_plugin(string) for string in strings]


def _make_plugin(string: str) -> Plugin:
    name = string.partition(":")[0]
    try:
        checker: Any = strcred.makeChecker(string)
    except strcred.InvalidAuthType:
        usable = ", ".join(sorted(_usable_plugins())) or "none"
        raise SettingsError(
            f"auth: twisted.cred has no plugin {name!r}; the plugins that can be used are {usable}"
        ) from None
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        raise SettingsError(
            f"auth: the plugin {name!r} does not accept the argument after its name: {error}"
        ) from None
    plugin_checker = PluginChecker(name, checker)
    if not plugin_checker.credentialInterfaces:
        supported = ", ".join(sorted(each.__name__ for each in checker.credentialInterfaces))
        raise SettingsError(
            f"auth: the checker {name!r} supports {supported}, but it must support IUsernamePassword, or "
            "IToken of taskqd.auth.credentials"
        )
    return Plugin(name, plugin_checker)


def _usable_plugins() -> set[str]:
    """Return the names of the plugins that support the credentials of AUTH."""
    factories: Iterable[Any] = strcred.findCheckerFactories()
    return {each.authType for each in factories if set(CREDENTIALS) & set(each.credentialInterfaces)}
