"""Writing to a connection at once, where nothing waits to be written before it.

Twisted's transports write when the reactor finds that the socket takes something: two changes of what epoll
looks at and a turn of the reactor for each reply. A socket nearly always takes a reply, so it is tried first.
What it does not take goes the usual way, and so does everything on a transport of which it cannot be told
whether something waits.
"""

from typing import Any


def write(transport: Any, data: bytes) -> None:
    """Write ``data`` after all that was written before."""
    # Its own attribute: TLS lends those of the socket below it, to which this would go unencrypted.
    has_more = vars(transport).get("_tempDataLen", 1) or transport.dataBuffer
    # A transport that has ended takes what is written, and drops it; its socket is gone.
    if has_more or transport.disconnecting or not transport.connected:
        transport.write(data)
        return
    sent = transport.writeSomeData(data)
    # An error is met again on the usual way, which ends the connection as it should.
    rest = data if isinstance(sent, Exception) else data[sent:]
    if rest:
        transport.write(rest)


def unread(transport: Any) -> int:
    """Return how many bytes wait to be written on a transport that has a socket."""
    held = vars(transport)
    return int(held.get("_tempDataLen", 0)) + len(held.get("dataBuffer", b"")) - int(held.get("offset", 0))


def forget(transport: Any) -> None:
    """Free what waits to be written on a transport that has ended: others may refer to it for long."""
    vars(transport).update(dataBuffer=b"", _tempDataBuffer=[], _tempDataLen=0)
