"""Sends the state of this process to systemd, by sd_notify(3)'s datagrams.

systemd sets NOTIFY_SOCKET for the main process of a unit with NotifyAccess= (Type=notify implies it). The
datagram has lines such as ``READY=1`` or ``MAINPID=4711``.
"""

import os
import socket


def notify(state: str) -> bool:
    """Send ``state`` to systemd; return False if this process has no NOTIFY_SOCKET.

    Raises OSError if the datagram cannot be sent. The socket's buffer is systemd's: the call blocks while
    that is full.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # an abstract socket, whose name begins with a zero byte
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall(state.encode())
    return True
