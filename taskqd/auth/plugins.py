"""Checkers that an operator adds by twisted.cred's own plugins (strcred): a string of settings each.

``file:/etc/taskqd/users`` is Twisted's plugin ``file`` with what is behind the colon. A checker that takes
IUsernamePassword is asked about ``AUTH name:password``, one that takes our IToken about any AUTH. Whom it
lets in has the role of their name in ``[roles]``.
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

from taskqd.auth.checkers import Found
from taskqd.auth.credentials import IToken
from taskqd.auth.realm import NAME, avatar_id
from taskqd.errors import SettingsError

TAKEN = (IToken, IUsernamePassword)
"""What a plugin's checker may be asked about."""


@implementer(ICredentialsChecker)
class Foreign:
    """A plugin's checker, whose users are names here; ``name`` is the plugin's."""

    _log = Logger()

    def __init__(self, name: str, checker: Any) -> None:
        self._name = name
        self.credentialInterfaces = tuple(each for each in TAKEN if each in checker.credentialInterfaces)
        self._checker = checker

    def requestAvatarId(self, credentials: Any) -> Found:
        """Fire with the name; fails with LoginFailed, also where the checker fails otherwise."""
        asked = maybeDeferred(self._checker.requestAvatarId, credentials)
        return asked.addCallback(_named).addErrback(self._refused)

    def _refused(self, failure: Failure) -> Any:
        if failure.check(LoginFailed, CancelledError):
            return failure
        self._log.failure("the checker {name} of the setting auth failed", failure, name=self._name)
        raise UnauthorizedLogin("that cannot be checked now; the daemon's log has more")


def _named(found: Any) -> bytes | tuple[()]:
    try:
        name = found if isinstance(found, str) else found.decode("utf-8")
    except (AttributeError, UnicodeDecodeError):  # ANONYMOUS is an empty tuple
        raise UnauthorizedLogin("there is nobody by that name") from None
    return avatar_id(NAME, name)


class Plugin(NamedTuple):
    """A checker, and the word by which its plugin is known."""

    name: str
    checker: Foreign


def make_plugins(strings: Iterable[str]) -> list[Plugin]:
    """Return the checkers of the setting ``auth``; raises SettingsError where there is none.

    Of a string only the first word is told: the rest may be secret, as with ``memory:name:password``.
    """
    return [_make(string) for string in strings]


def _make(string: str) -> Plugin:
    name = string.partition(":")[0]
    try:
        checker: Any = strcred.makeChecker(string)
    except strcred.InvalidAuthType:
        usable = ", ".join(sorted(_usable())) or "none"
        raise SettingsError(
            f"auth: there is no checker {name!r}; the plugins of twisted.cred that can be used are {usable}"
        ) from None
    except Exception as why:  # noqa: BLE001 - a plugin raises what it likes
        raise SettingsError(
            f"auth: the plugin {name!r} does not take what is behind its name: {why}"
        ) from None
    foreign = Foreign(name, checker)
    if not foreign.credentialInterfaces:
        takes = ", ".join(sorted(each.__name__ for each in checker.credentialInterfaces))
        raise SettingsError(
            f"auth: the checker {name!r} takes {takes}, and here it must take IUsernamePassword, or IToken "
            "of taskqd.auth.credentials"
        )
    return Plugin(name, foreign)


def _usable() -> set[str]:
    """Return the words of the plugins that can be used here."""
    factories: Iterable[Any] = strcred.findCheckerFactories()
    return {each.authType for each in factories if set(TAKEN) & set(each.credentialInterfaces)}
