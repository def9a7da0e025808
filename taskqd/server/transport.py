"""Properties of Twisted's stream transports that its interfaces do not offer.

A transport is a TCP or UNIX socket, or TLS on top of a TCP socket.
"""

import socket
from typing import cast

from twisted.internet.interfaces import IConsumer, IPushProducer, ISSLTransport, ISystemHandle, ITCPTransport
from twisted.internet.tcp import Connection as SocketTransport

KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 70_000),
)
"""The kernel notices within 70 s that a TCP peer has vanished (tcp(7)); by default it takes two hours."""


class IClientTransport(ITCPTransport, IConsumer, IPushProducer, ISystemHandle):
    """The transport of a client: all of Twisted's stream transports provide these."""


def is_tls(transport: IClientTransport) -> bool:
    """Whether a transport is encrypted; such a one cannot be half-closed."""
    return bool(ISSLTransport.providedBy(transport))


def socket_transport(transport: IClientTransport) -> SocketTransport:
    """Return the transport that has the socket: for TLS, the one below it."""
    return cast("SocketTransport", getattr(transport, "transport", transport))


def set_socket_options(transport: IClientTransport) -> None:
    """Enable keep-alive probes on TCP, and inline urgent data on unencrypted transports."""
    handle = socket_transport(transport).getHandle()
    if handle.family != socket.AF_UNIX:
        for level, option, value in KEEP_ALIVE:
            handle.setsockopt(level, option, value)
    if not is_tls(transport):
        # Telnet sends the data mark of an interrupt as urgent data: out of line it would split its sequence.
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def unsent_bytes(transport: SocketTransport) -> int:
    """Return how many bytes a transport has buffered because the peer does not read them.

    Twisted has no public way to ask. Attributes that another version does not have count as empty.
    """
    attributes = vars(transport)
    appended, buffer = attributes.get("_tempDataLen"), attributes.get("dataBuffer")
    if not appended and not buffer:
        return 0
    return int(appended or 0) + len(buffer or b"") - int(attributes.get("offset", 0))


def free_buffers(transport: IClientTransport) -> None:
    """Drop the unsent bytes of a closed transport, since other objects may refer to it for long."""
    vars(socket_transport(transport)).update(dataBuffer=b"", _tempDataBuffer=[], _tempDataLen=0)
