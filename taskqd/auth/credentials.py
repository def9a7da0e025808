"""Credentials for twisted.cred, in addition to its own IUsernamePassword."""

from twisted.cred.credentials import ICredentials
from zope.interface import Attribute, implementer


class IPeer(ICredentials):
    """The process at the other end of a UNIX socket, as the kernel reports it (SO_PEERCRED, unix(7))."""

    pid = Attribute("Its process id; 0 for a process in another pid namespace.")
    uid = Attribute("The user as which it ran when it connected.")


class IToken(ICredentials):
    """The argument of AUTH."""

    text = Attribute("The argument, a str.")
    address = Attribute("The address of the client, a str: 10.0.0.5:4242.")


class ICertificate(ICredentials):
    """A client certificate that TLS has verified."""

    name = Attribute("The commonName of its subject, a str.")


@implementer(IPeer)
class Peer:
    """The process at the other end of a UNIX socket."""

    def __init__(self, pid: int, uid: int) -> None:
        self.pid = pid
        self.uid = uid


@implementer(IToken)
class Token:
    """The argument of AUTH; its repr does not contain it."""

    def __init__(self, text: str, address: str) -> None:
        self.text = text
        self.address = address


@implementer(ICertificate)
class Certificate:
    """A client certificate that TLS has verified."""

    def __init__(self, name: str) -> None:
        self.name = name
