"""Addresses of a daemon, TLS files, and the errors of a failed connection (docs/protocol.md §1)."""

from collections.abc import Mapping
from typing import NamedTuple

_TLS_SCHEMES = ("tls:", "ssl:")


class Unreachable(Exception):
    """No daemon answers at the address, or the connection was lost; the text names the address."""


class Untrusted(Unreachable):
    """TLS failed because a certificate is not trusted or a key or certificate file is unusable."""


class AccessDenied(Unreachable):
    """The UNIX socket or its directory does not admit this user."""


class TlsFiles(NamedTuple):
    """The PEM files that a client uses for TLS.

    Without ``ca`` the CAs of the system are trusted; without ``cert`` the client has no certificate; without
    ``key`` the private key is read from the ``cert`` file.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


def tls_files_from_environ(environ: Mapping[str, str]) -> TlsFiles:
    """Return the files that TASKQ_CA, TASKQ_CERT and TASKQ_KEY name."""
    return TlsFiles(*(environ.get(name) or None for name in ("TASKQ_CA", "TASKQ_CERT", "TASKQ_KEY")))


class Address(NamedTuple):
    """The path of a UNIX socket, or a host and a port."""

    text: str
    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_local(self) -> bool:
        """Whether this is a UNIX socket, so that client and daemon share a file system."""
        return bool(self.path)

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted with TLS."""
        return self.text.startswith(_TLS_SCHEMES)


def parse_address(text: str) -> Address:
    """Parse ``unix:PATH``, ``tcp:HOST:PORT`` or ``tls:HOST:PORT``; raises ValueError.

    ``ssl:`` is an alias of ``tls:``. An IPv6 address is written in brackets.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest:
        return Address(text, path=rest)
    host, _, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if f"{scheme}:" in ("tcp:", *_TLS_SCHEMES) and host and is_port:
        return Address(text, host=host, port=int(port))
    raise ValueError(
        "expected an address unix:PATH, tcp:HOST:PORT or tls:HOST:PORT, with an IPv6 host in brackets, "
        f"not {text!r}"
    )
