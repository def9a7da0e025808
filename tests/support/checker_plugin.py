"""An example of a checker that an operator adds as a plugin of twisted.cred.

It is copied to `twisted/plugins/` in a directory on PYTHONPATH, and then available as `auth =
["ticket:/path/of/the/key"]`. A ticket is `<name>~<hex>`, signed with HMAC-SHA256 and the key; `[roles]` has
the role of the name. unit/auth/test_plugins.py and end_to_end/test_access.py use it.
"""

import hmac
from pathlib import Path
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import ICheckerFactory
from twisted.internet.defer import Deferred, succeed
from twisted.plugin import IPlugin
from zope.interface import implementer

from taskqd.auth.credentials import IToken


def ticket(key: bytes, name: str) -> str:
    """Return the ticket for a name."""
    return f"{name}~{hmac.digest(key, name.encode(), 'sha256').hex()}"


@implementer(ICredentialsChecker)
class TicketChecker:
    """Accepts valid tickets."""

    credentialInterfaces = (IToken,)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        name = credentials.text.rpartition("~")[0]
        if not hmac.compare_digest(ticket(self._key, name).encode(), credentials.text.encode()):
            raise UnauthorizedLogin("the ticket is invalid")
        return succeed(name.encode())


@implementer(ICheckerFactory, IPlugin)
class TicketCheckerFactory:
    """Makes a TicketChecker from the argument after `ticket:` in the setting `auth`."""

    authType = "ticket"
    authHelp = "Tickets that are signed with a key."
    argStringFormat = "The path of the key."
    credentialInterfaces = (IToken,)

    def generateChecker(self, argstring: str) -> TicketChecker:
        return TicketChecker(Path(argstring).read_bytes())


the_ticket_checker_factory = TicketCheckerFactory()
