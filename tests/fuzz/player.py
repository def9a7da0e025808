"""Plays a session against a daemon and listens to the answers, at its own pace and not at the daemon's."""

import select
import socket
import ssl
import struct
import time
from contextlib import suppress
from typing import NamedTuple
from zlib import crc32

from tests.fuzz.hearing import Broken, Deaf, Ear
from tests.fuzz.reading import Asked, Reading, read
from tests.fuzz.session import Session

PATIENCE = 30.0
"""A request that has had no answer for so many seconds has none."""
FOR_LIVE = 0.05
"""A WAIT, a FOLLOW or a WATCH may be silent, or never end; after so many seconds of it the client goes."""
LONGEST = 10.0
"""A client that is answered all the while, but has so much to be answered, goes after so many seconds."""
NOTHING = Reading([Asked(b"", b"(no TLS)", is_optional=True, may_wait=True)], b"", is_ended=True)
"""What is asked for by bytes that are not understood."""
_AT_ONCE = 1 << 18
RESET = struct.pack("ii", 1, 0)
"""What SO_LINGER takes so that a close is a reset (socket(7))."""


class Place(NamedTuple):
    """Where a daemon is: its addresses by transport, its tokens by role, and the verbs that it has.

    The transport ``raw`` is its TLS port, for bytes that are no TLS.
    """

    addresses: dict[str, str | int]
    tokens: dict[str, str]
    verbs: frozenset[bytes]


class Played(NamedTuple):
    """What came of a session."""

    ear: Ear
    reading: Reading
    sent: int


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_TRUSTING = _trusting()


def connected(place: Place, transport: str, source: str = "127.0.0.1") -> socket.socket:
    """Return a connection to a daemon, from an address of this machine; raises OSError."""
    address = place.addresses[transport]
    if transport != "unix":
        made = socket.create_connection(("127.0.0.1", int(address)), PATIENCE, (source, 0))
    else:
        made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(PATIENCE)
        if transport == "unix":
            made.connect(str(address))
        return _TRUSTING.wrap_socket(made) if transport == "tls" else made
    except BaseException:
        made.close()
        raise


class _Peer:
    """A connection on which neither reading nor writing waits."""

    def __init__(self, place: Place, transport: str, source: str) -> None:
        self._socket = connected(place, transport, source)
        self._socket.setblocking(False)
        self._is_tls = transport == "tls"
        self._poll = select.poll()

    def wait(self, is_writing: bool, seconds: float) -> None:
        """Wait until there is something to read, or room to write where that is wanted."""
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if is_writing else 0))
        self._poll.poll(seconds * 1000)

    def receive(self) -> bytes | None:
        """Return what has come, None if nothing has; no bytes are the end."""
        try:
            return self._socket.recv(_AT_ONCE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            return b""

    def send(self, data: bytes) -> int:
        """Return how many bytes could be sent; -1 where nobody takes them any more."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            return -1

    def half_close(self) -> None:
        with suppress(OSError):  # closed meanwhile
            self._socket.shutdown(socket.SHUT_WR)

    def close(self, is_abrupt: bool) -> None:
        if is_abrupt:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._socket.close()


def _also(session: Session) -> set[str]:
    """Return the codes with which everything may be refused, for whom it is who asks."""
    if session.transport == "unix" or session.login == "admin":
        return set()
    return {"FORBIDDEN"} if session.login else {"AUTH_REQUIRED"}


def _source(stream: bytes) -> str:
    """Return an address of this machine for a stream: after ten wrong AUTHs of one, it has to wait."""
    return f"127.{'.'.join(map(str, crc32(stream).to_bytes(4, 'big')[1:]))}"


def play(session: Session, place: Place, patience: float = PATIENCE) -> Played:
    """Play a session; raises Broken where the daemon does not keep to the protocol.

    Raises OSError where there is no daemon to connect to.
    """
    assert session.is_fit, session.data
    pieces = session.pieces(place.tokens)
    stream = b"".join(data for _, data in pieces)
    is_raw = session.transport == "raw"
    reading = NOTHING if is_raw else read(stream, place.verbs)
    ear = Deaf(reading) if is_raw else Ear(reading, _also(session))
    peer = _Peer(place, session.transport, _source(stream))
    try:
        sent = _Exchange(peer, ear, pieces, session, patience).run()
    finally:
        # On TCP a plain end looks like a half-closed client that still waits, until the daemon's probes fail.
        peer.close(is_abrupt=session.end == "abort" or ear.awaited is not None)
    return Played(ear, reading, sent)


class _Exchange:
    """Sends the pieces in their time while it listens, and ends the connection as the session says."""

    def __init__(
        self, peer: _Peer, ear: Ear, pieces: list[tuple[float, bytes]], session: Session, patience: float
    ) -> None:
        self._peer = peer
        self._ear = ear
        self._pieces = [(pause, memoryview(data)) for pause, data in pieces if data or pause]
        self._session = session
        self._is_half_closing = session.end == "half-close" and session.transport != "tls"
        self._patience = patience
        self._sent = 0
        self._due = 0.0
        self._is_last_sent = False
        self._awaited: Asked | None = None
        self._since = 0.0

    def run(self) -> int:
        """Return how many bytes were sent; raises Broken."""
        began = moved = time.monotonic()
        self._due = began + (self._pieces[0][0] if self._pieces else 0.0)
        while True:
            now = time.monotonic()
            is_much = now - began > LONGEST and now - moved < LONGEST / 2
            if is_much or self._is_done(now - moved):
                return self._sent
            is_due = bool(self._pieces) and now >= self._due
            self._peer.wait(is_due, self._pause(now, is_due))
            before = self._sent, len(self._pieces)
            data = self._peer.receive()
            if data:
                self._ear.feed(data)
            elif data is not None:
                self._closed()
                return self._sent
            if is_due:
                self._send()
            if data or before != (self._sent, len(self._pieces)):
                moved = time.monotonic()

    def _pause(self, now: float, is_due: bool) -> float:
        if self._pieces and not is_due:
            return self._due - now
        return FOR_LIVE if not self._pieces else 1.0

    def _send(self) -> None:
        _, data = self._pieces[0]
        count = self._peer.send(bytes(data)) if data else 0
        if count < 0:
            self._pieces.clear()  # who has closed may have said why, which is still to be read
        else:
            self._sent += count
            if count == len(data):
                del self._pieces[0]
                if self._pieces:
                    self._due = time.monotonic() + self._pieces[0][0]
            else:
                self._pieces[0] = (0.0, data[count:])

    def _is_done(self, silence: float) -> bool:
        """Whether the client goes; says that nothing more comes when all is sent."""
        if not self._pieces:
            if self._session.end == "abort":
                return True
            if not self._is_last_sent:
                self._is_last_sent = True
                if self._is_half_closing:
                    self._peer.half_close()
            if self._may_go(silence):
                return True
        self._check(silence)
        return False

    def _may_go(self, silence: float) -> bool:
        """Whether nothing more has to come; of a client that has said its last, the end has to."""
        awaited = self._ear.awaited
        if awaited is None:
            return self._ear.is_satisfied and not self._ear.may_end and not self._is_half_closing
        if awaited.may_wait:
            return self._waits_for(awaited) > FOR_LIVE
        # What is optional belongs to a block whose end is not sent.
        return awaited.is_optional and silence > FOR_LIVE and not self._is_half_closing

    def _waits_for(self, awaited: Asked) -> float:
        """Return how long it has been its turn, in seconds."""
        now = time.monotonic()
        if self._awaited is not awaited:
            self._awaited, self._since = awaited, now
        return now - self._since

    def _check(self, silence: float) -> None:
        if silence < self._patience:
            return
        awaited = self._ear.awaited
        if awaited is not None:
            raise Broken(f"{awaited.line!r} has had no answer for {silence:.0f} s")
        raise Broken(f"the connection has not ended for {silence:.0f} s, with nothing left to be said")

    def _closed(self) -> None:
        """The daemon has closed; see whether it might."""
        ear = self._ear
        has_said_all = self._is_last_sent and self._is_half_closing
        if not ear.may_end and not has_said_all:
            raise Broken(f"the daemon closed the connection; {_awaited(ear)}")
        ear.end()


def _awaited(ear: Ear) -> str:
    return "nothing was left to be answered" if ear.awaited is None else f"{ear.awaited.line!r} was left"
