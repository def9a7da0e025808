"""Plays a session against a daemon and checks the replies, without waiting for the daemon to read."""

import select
import socket
import ssl
import struct
import time
from contextlib import suppress
from typing import NamedTuple
from zlib import crc32

from tests.fuzz.reply_checker import AnyReplies, ReplyChecker, RuleBroken
from tests.fuzz.session import Session
from tests.fuzz.stream_parser import ParsedRequest, ParsedStream, parse_stream

REPLY_TIMEOUT = 30.0
"""Seconds after which a missing reply is an error."""
MAX_SILENCE = 0.05
"""Seconds after which the client leaves a silent WAIT, FOLLOW or WATCH, which may never end."""
MAX_DURATION = 10.0
"""Seconds after which a client leaves though replies to its many requests still arrive."""
NOTHING = ParsedStream([ParsedRequest(b"", b"(no TLS)", is_optional=True, may_wait=True)], b"", is_ended=True)
"""The requests of input that is not TLS."""
_RECEIVE_SIZE = 1 << 18
RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER that makes a close a reset (socket(7))."""


class Target(NamedTuple):
    """A daemon: its addresses by transport, its tokens by role, and its verbs.

    The transport ``raw`` is its TLS port, for bytes that are not TLS.
    """

    addresses: dict[str, str | int]
    tokens: dict[str, str]
    verbs: frozenset[bytes]


class PlayedSession(NamedTuple):
    """The result of a session."""

    checker: ReplyChecker
    reading: ParsedStream
    sent: int


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_TRUSTING = _trusting()


def connected(place: Target, transport: str, source: str = "127.0.0.1") -> socket.socket:
    """Return a connection to a daemon, from an address of this machine; raises OSError."""
    address = place.addresses[transport]
    if transport != "unix":
        made = socket.create_connection(("127.0.0.1", int(address)), REPLY_TIMEOUT, (source, 0))
    else:
        made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(REPLY_TIMEOUT)
        if transport == "unix":
            made.connect(str(address))
        return _TRUSTING.wrap_socket(made) if transport == "tls" else made
    except BaseException:
        made.close()
        raise


class _Peer:
    """A non-blocking connection."""

    def __init__(self, place: Target, transport: str, source: str) -> None:
        self._socket = connected(place, transport, source)
        self._socket.setblocking(False)
        self._is_tls = transport == "tls"
        self._poll = select.poll()

    def wait(self, is_writing: bool, seconds: float) -> None:
        """Wait until bytes can be read, or written if ``is_writing``."""
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if is_writing else 0))
        self._poll.poll(seconds * 1000)

    def receive(self) -> bytes | None:
        """Return the bytes received, None if there are none yet; empty at the end."""
        try:
            return self._socket.recv(_RECEIVE_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            return b""

    def send(self, data: bytes) -> int:
        """Return how many bytes could be sent; -1 if the connection is closed."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            return -1

    def half_close(self) -> None:
        with suppress(OSError):  # closed in the meantime
            self._socket.shutdown(socket.SHUT_WR)

    def close(self, is_abrupt: bool) -> None:
        if is_abrupt:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._socket.close()


def _also(session: Session) -> set[str]:
    """Return the errors with which every request of a session may be refused."""
    if session.transport == "unix" or session.login == "admin":
        return set()
    return {"FORBIDDEN"} if session.login else {"AUTH_REQUIRED"}


def _source(stream: bytes) -> str:
    """Return a local source address for a stream: after ten failed AUTHs an address has to wait."""
    return f"127.{'.'.join(map(str, crc32(stream).to_bytes(4, 'big')[1:]))}"


def play(session: Session, place: Target, timeout: float = REPLY_TIMEOUT) -> PlayedSession:
    """Play a session; raises Broken where the daemon does not keep to the protocol.

    Raises OSError if it cannot connect.
    """
    assert session.is_playable, session.data
    pieces = session.pieces(place.tokens)
    stream = b"".join(data for _, data in pieces)
    is_raw = session.transport == "raw"
    reading = NOTHING if is_raw else parse_stream(stream, place.verbs)
    checker = AnyReplies(reading) if is_raw else ReplyChecker(reading, _also(session))
    peer = _Peer(place, session.transport, _source(stream))
    try:
        sent = _SessionRun(peer, checker, pieces, session, timeout).run()
    finally:
        # On TCP a close looks like a half-close of a client that still waits, until the daemon's probes fail.
        peer.close(is_abrupt=session.end == "abort" or checker.awaited is not None)
    return PlayedSession(checker, reading, sent)


class _SessionRun:
    """Sends the pieces at their times, checks the replies, and ends the connection as the session says."""

    def __init__(
        self,
        peer: _Peer,
        checker: ReplyChecker,
        pieces: list[tuple[float, bytes]],
        session: Session,
        timeout: float,
    ) -> None:
        self._peer = peer
        self._ear = checker
        self._pieces = [(pause, memoryview(data)) for pause, data in pieces if data or pause]
        self._session = session
        self._is_half_closing = session.end == "half-close" and session.transport != "tls"
        self._patience = timeout
        self._sent = 0
        self._due = 0.0
        self._is_last_sent = False
        self._awaited: ParsedRequest | None = None
        self._since = 0.0

    def run(self) -> int:
        """Return how many bytes were sent; raises Broken."""
        began = moved = time.monotonic()
        self._due = began + (self._pieces[0][0] if self._pieces else 0.0)
        while True:
            now = time.monotonic()
            is_much = now - began > MAX_DURATION and now - moved < MAX_DURATION / 2
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
        return MAX_SILENCE if not self._pieces else 1.0

    def _send(self) -> None:
        _, data = self._pieces[0]
        count = self._peer.send(bytes(data)) if data else 0
        if count < 0:
            self._pieces.clear()  # the daemon has closed; its reason can still be read
        else:
            self._sent += count
            if count == len(data):
                del self._pieces[0]
                if self._pieces:
                    self._due = time.monotonic() + self._pieces[0][0]
            else:
                self._pieces[0] = (0.0, data[count:])

    def _is_done(self, silence: float) -> bool:
        """Whether the client leaves; half-closes once everything is sent."""
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
        """Whether no reply is missing; after a half-close, the daemon must also close."""
        awaited = self._ear.awaited
        if awaited is None:
            return self._ear.is_satisfied and not self._ear.may_end and not self._is_half_closing
        if awaited.may_wait:
            return self._waits_for(awaited) > MAX_SILENCE
        # An optional request has a block whose end is not sent.
        return awaited.is_optional and silence > MAX_SILENCE and not self._is_half_closing

    def _waits_for(self, awaited: ParsedRequest) -> float:
        """Return for how many seconds the reply to a request has been due."""
        now = time.monotonic()
        if self._awaited is not awaited:
            self._awaited, self._since = awaited, now
        return now - self._since

    def _check(self, silence: float) -> None:
        if silence < self._patience:
            return
        awaited = self._ear.awaited
        if awaited is not None:
            raise RuleBroken(f"{awaited.line!r} has had no reply for {silence:.0f} s")
        raise RuleBroken(
            f"the connection has not ended for {silence:.0f} s, though all requests are answered"
        )

    def _closed(self) -> None:
        """Check that the daemon was allowed to close."""
        checker = self._ear
        has_said_all = self._is_last_sent and self._is_half_closing
        if not checker.may_end and not has_said_all:
            raise RuleBroken(f"the daemon closed the connection; {_awaited(checker)}")
        checker.end()


def _awaited(checker: ReplyChecker) -> str:
    return (
        "all requests were answered"
        if checker.awaited is None
        else f"{checker.awaited.line!r} was unanswered"
    )
