"""A connection over TLS: whom it trusts, whom it shows, and its bytes as they come and go.

The daemon's certificate must be of a CA that is trusted, and of the host that was asked for. TLS is spoken
from version 1.2 on. The socket does not block: what OpenSSL has read of a record and not given out no poll
tells of, and what it has to wait for is not always what was asked of it.
"""

import errno
import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from taskqd.client.address import Address, TlsFiles, Unreachable, Untrusted
from taskqd.client.channel import PIECE

Used = TypeVar("Used")

_AT_ONCE = 64 * 1024
"""So many bytes are handed to OpenSSL: when they cannot go, the same ones must be handed to it again."""

_ADVICE = {
    9: "are the clocks of both machines right?",
    10: "the daemon needs a new one",
    26: "it was made for another use than a server's",
    **dict.fromkeys((62, 64), "give --address with a host of its subjectAltName, or have one made for it"),
}
"""What to do about a certificate, by the number of X509_STORE_CTX_get_error(3)."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""What OpenSSL says of an answer that is not TLS."""


def secured(connected: socket.socket, address: Address, papers: TlsFiles) -> "Secure":
    """Return a TLS connection over a connected socket, whose timeout bounds the handshake.

    Raises Untrusted where one side has no certificate that the other takes, or a file of ours is no use;
    Unreachable or OSError where TLS comes to nothing for another reason.
    """
    try:
        tls = _context(papers).wrap_socket(
            connected, server_hostname=address.host, do_handshake_on_connect=False
        )
    except ValueError as error:
        raise Unreachable(f"the host of {address.text} has no name that TLS takes: {error}") from None
    try:
        tls.do_handshake()
    except BaseException as error:
        tls.close()
        if isinstance(error, OSError):
            raise _failure(error, address, papers) from None
        raise
    tls.setblocking(False)
    return Secure(tls, address, papers)


def _context(papers: TlsFiles) -> ssl.SSLContext:
    if papers.key and not papers.cert:
        raise Untrusted(f"the key {papers.key} (TASKQ_KEY) has no certificate: set TASKQ_CERT too")
    context = _usable("CA file", "TASKQ_CA", papers.ca, lambda: ssl.create_default_context(cafile=papers.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False  # where a client's certificate has its name
    if papers.cert:
        cert, key = papers.cert, papers.key
        _usable("key", "TASKQ_KEY", key, lambda: None)
        _usable("certificate", "TASKQ_CERT", cert, lambda: context.load_cert_chain(cert, key, _no_passphrase))
    return context


def _usable(kind: str, variable: str, path: str | None, use: Callable[[], Used]) -> Used:
    """Return what ``use`` makes of a file of ours; raises Untrusted, naming it, where it is no use."""
    try:
        if path is not None:
            with open(path, "rb"):
                pass  # OpenSSL does not tell which file is missing
        return use()
    except OSError as error:
        why = _words(error.reason) if isinstance(error, ssl.SSLError) else error.strerror
        raise Untrusted(f"the {kind} {path} ({variable}) cannot be used: {why or error}") from None


def _no_passphrase() -> str:
    raise Untrusted("the key (TASKQ_KEY) has a passphrase; `openssl pkey` makes one without")


def _failure(error: OSError, address: Address, papers: TlsFiles) -> Unreachable:
    """Return what an error of TLS means: what came, and what to do."""
    where = f"the daemon at {address.text}"
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        return Untrusted(f"the certificate of {where} is not trusted: {why}; {_advice(error, papers)}")
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, TimeoutError) or reason in _NO_TLS:
        return Unreachable(
            f"no TLS is spoken at {address.text}; if a daemon is there, its address begins with tcp:"
        )
    if isinstance(error, (ConnectionError, ssl.SSLEOFError)):
        return Unreachable(f"{where} closed the connection before TLS was agreed on; is it one?")
    _, is_alert, alert = reason.partition("ALERT_")
    if is_alert:
        return _refusal(alert, where, papers)
    return Unreachable(f"TLS with {where} came to nothing: {_words(reason) or error}")


def _refusal(alert: str, where: str, papers: TlsFiles) -> Untrusted:
    """Return what the daemon means by an alert (RFC 8446 §6.2)."""
    if papers.cert and ("CERT" in alert or alert == "UNKNOWN_CA"):
        return Untrusted(f"{where} does not take the certificate {papers.cert} (TASKQ_CERT): {_words(alert)}")
    if "CERT" in alert:
        return Untrusted(f"{where} wants a certificate of ours: set TASKQ_CERT and TASKQ_KEY")
    return Untrusted(f"{where} does not agree on TLS: {_words(alert)}")


def _advice(error: ssl.SSLCertVerificationError, papers: TlsFiles) -> str:
    if error.verify_code in _ADVICE:
        return _ADVICE[error.verify_code]
    if papers.ca:
        return f"is it of the CA in {papers.ca} (TASKQ_CA)?"
    return "set TASKQ_CA to the file of the CA that signed it"


def _words(reason: str | None) -> str:
    return (reason or "").replace("_", " ").lower()


class Secure:
    """A socket over TLS."""

    def __init__(self, tls: ssl.SSLSocket, address: Address, papers: TlsFiles) -> None:
        self._tls = tls
        self._address = address
        self._papers = papers

    def close(self) -> None:
        # What is said in farewell cannot be waited for, and need not arrive.
        with suppress(OSError, ValueError):
            self._tls.unwrap()
        self._tls.close()

    def send(self, data: memoryview, hear: Callable[[bytes], None]) -> None:
        while data:
            try:
                data = data[self._tls.send(data[:_AT_ONCE]) :]
                continue
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLIN | select.POLLOUT
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                raise ConnectionResetError(errno.ECONNRESET, "the daemon closed it") from None
            while isinstance(heard := self._receive_some(), bytes):
                hear(heard)
            self._wait(wanted | heard, None)

    def receive(self, seconds: float | None) -> bytes | None:
        deadline = None if seconds is None else time.monotonic() + seconds
        while not isinstance(heard := self._receive_some(), bytes):
            if not self._wait(heard, deadline):
                return None
        return heard

    def _receive_some(self) -> bytes | int:
        """Return what is there, nothing at the end; or where nothing is there now, what to wait for."""
        try:
            return self._tls.recv(PIECE)
        except ssl.SSLWantReadError:
            return select.POLLIN
        except ssl.SSLWantWriteError:
            return select.POLLOUT
        except ssl.SSLError as error:
            raise _failure(error, self._address, self._papers) from None

    def _wait(self, wanted: int, deadline: float | None) -> bool:
        """Wait for the socket; whether it was there before the deadline."""
        poll = select.poll()
        poll.register(self._tls, wanted)
        return bool(poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000))
