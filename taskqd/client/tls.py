"""Opens TLS connections, and sends and receives bytes over them.

The certificate of the daemon must be signed by a trusted CA and name the host of the address. The minimum
version is TLS 1.2. The socket is non-blocking: poll does not see bytes that OpenSSL has already read and
buffered, and sending may have to wait for the socket to become readable (and vice versa).
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
from taskqd.client.channel import RECEIVE_SIZE

Loaded = TypeVar("Loaded")

MAX_WRITE_BYTES = 64 * 1024
"""Maximum number of bytes per write: OpenSSL requires that an incomplete write is repeated unchanged."""


_ADVICE = {
    9: "check the clocks of both machines",
    10: "the daemon needs a new one",
    26: "it must be a server certificate",
    **dict.fromkeys(
        (62, 64), "use a host of its subjectAltName in --address, or issue a certificate for this host"
    ),
}
"""Advice for an untrusted certificate by error number, see X509_STORE_CTX_get_error(3)."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""Reasons that OpenSSL gives for a reply that is not TLS."""


def open_tls_channel(connected: socket.socket, address: Address, tls_files: TlsFiles) -> "TlsChannel":
    """Perform the TLS handshake on a connected socket, limited by the timeout of the socket.

    Raises Untrusted if either side rejects the certificate of the other or a file is unusable, and
    Unreachable or OSError if the handshake fails for another reason.
    """
    try:
        tls = _make_context(tls_files).wrap_socket(
            connected, server_hostname=address.host, do_handshake_on_connect=False
        )
    except ValueError as error:
        raise Unreachable(f"the host of {address.text} is not a valid name for TLS: {error}") from None
    try:
        tls.do_handshake()
    except BaseException as error:
        tls.close()
        if isinstance(error, OSError):
            raise _handshake_error(error, address, tls_files) from None
        raise
    tls.setblocking(False)
    return TlsChannel(tls, address, tls_files)


def _make_context(tls_files: TlsFiles) -> ssl.SSLContext:
    if tls_files.key and not tls_files.cert:
        raise Untrusted(f"the key {tls_files.key} (TASKQ_KEY) needs a certificate: set TASKQ_CERT too")
    context = _load(
        "CA file", "TASKQ_CA", tls_files.ca, lambda: ssl.create_default_context(cafile=tls_files.ca)
    )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False  # only client certificates use it
    if tls_files.cert:
        cert, key = tls_files.cert, tls_files.key
        _load("key", "TASKQ_KEY", key, lambda: None)
        _load("certificate", "TASKQ_CERT", cert, lambda: context.load_cert_chain(cert, key, _no_passphrase))
    return context


def _load(kind: str, variable: str, path: str | None, use: Callable[[], Loaded]) -> Loaded:
    """Return the result of ``use``; raises Untrusted with the name of the file if it is unusable."""
    try:
        if path is not None:
            with open(path, "rb"):
                pass  # OpenSSL does not report which file is missing
        return use()
    except OSError as error:
        why = _readable(error.reason) if isinstance(error, ssl.SSLError) else error.strerror
        raise Untrusted(f"cannot use the {kind} {path} ({variable}): {why or error}") from None


def _no_passphrase() -> str:
    raise Untrusted("the key (TASKQ_KEY) has a passphrase; remove it with `openssl pkey`")


def _handshake_error(error: OSError, address: Address, tls_files: TlsFiles) -> Unreachable:
    """Translate an error of OpenSSL into one that says what to do."""
    where = f"the daemon at {address.text}"
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        return Untrusted(f"the certificate of {where} is not trusted: {why}; {_advice(error, tls_files)}")
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, TimeoutError) or reason in _NO_TLS:
        return Unreachable(
            f"the server at {address.text} does not use TLS; if it is a daemon, its address begins with tcp:"
        )
    if isinstance(error, (ConnectionError, ssl.SSLEOFError)):
        return Unreachable(f"{where} closed the connection during the TLS handshake; is it a taskqd daemon?")
    _, is_alert, alert = reason.partition("ALERT_")
    if is_alert:
        return _alert_error(alert, where, tls_files)
    return Unreachable(f"the TLS handshake with {where} failed: {_readable(reason) or error}")


def _alert_error(alert: str, where: str, tls_files: TlsFiles) -> Untrusted:
    """Translate an alert of the daemon (RFC 8446 §6.2)."""
    if tls_files.cert and ("CERT" in alert or alert == "UNKNOWN_CA"):
        return Untrusted(
            f"{where} rejected the certificate {tls_files.cert} (TASKQ_CERT): {_readable(alert)}"
        )
    if "CERT" in alert:
        return Untrusted(f"{where} requires a client certificate: set TASKQ_CERT and TASKQ_KEY")
    return Untrusted(f"{where} rejected the TLS handshake: {_readable(alert)}")


def _advice(error: ssl.SSLCertVerificationError, tls_files: TlsFiles) -> str:
    if error.verify_code in _ADVICE:
        return _ADVICE[error.verify_code]
    if tls_files.ca:
        return f"check that the CA in {tls_files.ca} (TASKQ_CA) signed it"
    return "set TASKQ_CA to the file of the CA that signed it"


def _readable(reason: str | None) -> str:
    return (reason or "").replace("_", " ").lower()


class TlsChannel:
    """A socket with TLS."""

    def __init__(self, tls: ssl.SSLSocket, address: Address, tls_files: TlsFiles) -> None:
        self._tls = tls
        self._address = address
        self._tls_files = tls_files

    @property
    def socket(self) -> socket.socket:
        return self._tls

    def close(self) -> None:
        # The close_notify alert is sent if possible; the peer does not need it.
        with suppress(OSError, ValueError):
            self._tls.unwrap()
        self._tls.close()

    def send(self, data: memoryview, on_received: Callable[[bytes], None]) -> None:
        while data:
            try:
                data = data[self._tls.send(data[:MAX_WRITE_BYTES]) :]
                continue
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLIN | select.POLLOUT
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                raise ConnectionResetError(errno.ECONNRESET, "closed by the daemon") from None
            while isinstance(received := self._receive_some(), bytes):
                on_received(received)
            self._wait(wanted | received, None)

    def receive(self, timeout: float | None) -> bytes | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not isinstance(received := self._receive_some(), bytes):
            if not self._wait(received, deadline):
                return None
        return received

    def _receive_some(self) -> bytes | int:
        """Return available bytes, ``b""`` at the end, or the poll events to wait for if there are none."""
        try:
            return self._tls.recv(RECEIVE_SIZE)
        except ssl.SSLWantReadError:
            return select.POLLIN
        except ssl.SSLWantWriteError:
            return select.POLLOUT
        except ssl.SSLError as error:
            raise _handshake_error(error, self._address, self._tls_files) from None

    def _wait(self, events: int, deadline: float | None) -> bool:
        """Wait for events on the socket; return False if the deadline passes first."""
        poll = select.poll()
        poll.register(self._tls, events)
        return bool(poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000))
