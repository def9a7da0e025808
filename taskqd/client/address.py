"""The address of a daemon, and what TLS needs to reach it (docs/protocol.md §1)."""

from collections.abc import Mapping
from typing import NamedTuple

_SECURED = ("tls:", "ssl:")


class Unreachable(Exception):
    """No daemon answers at the address, or the connection to it was lost; the text names the address."""


class Untrusted(Unreachable):
    """TLS came to nothing for a certificate that is not trusted, or a file that is no use."""


class TlsFiles(NamedTuple):
    """The PEM files that a client speaks TLS with; None is the system's CAs, and no certificate of its own.

    Without a ``key`` file, the key is in that of the certificate.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


def papers_of(environ: Mapping[str, str]) -> TlsFiles:
    """Return what the environment names: TASKQ_CA, TASKQ_CERT and TASKQ_KEY."""
    return TlsFiles(*(environ.get(name) or None for name in ("TASKQ_CA", "TASKQ_CERT", "TASKQ_KEY")))


class Address(NamedTuple):
    """Where a daemon listens: the path of a UNIX socket, or a host and a port."""

    text: str
    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_local(self) -> bool:
        """Whether it is a UNIX socket, so that client and daemon see the same files."""
        return bool(self.path)

    @property
    def is_secured(self) -> bool:
        """Whether TLS is spoken there."""
        return self.text.startswith(_SECURED)


def parse_address(text: str) -> Address:
    """Read ``unix:PATH``, ``tcp:HOST:PORT`` or ``tls:HOST:PORT``; raises ValueError.

    ``ssl:`` is the same as ``tls:``, and an IPv6 address stands in brackets.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Address(text, path=rest)
    host, _, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if f"{kind}:" in ("tcp:", *_SECURED) and host and is_port:
        return Address(text, host=host, port=int(port))
    raise ValueError(
        "expected unix:PATH, tcp:HOST:PORT or tls:HOST:PORT as an address, "
        f"an IPv6 address as HOST in brackets, not {text!r}"
    )
