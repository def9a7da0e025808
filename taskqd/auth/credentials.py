"""What somebody shows: credentials of twisted.cred, beside those that it has itself (IUsernamePassword)."""

from twisted.cred.credentials import ICredentials
from zope.interface import Attribute, implementer


class IPeer(ICredentials):
    """What the system says of the process at the other end of a UNIX socket (SO_PEERCRED, unix(7))."""

    pid = Attribute("Its number, 0 for one that is in no namespace of ours.")
    uid = Attribute("The user that it ran as when it connected.")


class IToken(ICredentials):
    """What stands behind AUTH."""

    text = Attribute("The text, a str.")
    address = Attribute("From where it came, a str: 10.0.0.5:4242.")


class ICertificate(ICredentials):
    """A certificate that TLS has verified."""

    name = Attribute("The commonName of its subject, a str.")


@implementer(IPeer)
class Peer:
    """The process at the other end of a UNIX socket."""

    def __init__(self, pid: int, uid: int) -> None:
        self.pid = pid
        self.uid = uid


@implementer(IToken)
class Token:
    """What stands behind AUTH; nothing shows it."""

    def __init__(self, text: str, address: str) -> None:
        self.text = text
        self.address = address


@implementer(ICertificate)
class Certificate:
    """A certificate that TLS has verified."""

    def __init__(self, name: str) -> None:
        self.name = name
