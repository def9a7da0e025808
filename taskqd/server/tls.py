"""Parses TLS endpoint strings, and loads and checks the certificates and keys that they name.

``tls:`` and ``ssl:`` mean the same, and the files have Twisted's names or shorter ones. The minimum is TLS
1.2. With a CA, clients may present a certificate; the handshake fails if the CA has not signed it. The
package ``auth`` decides which user a certificate belongs to. OpenSSL comes with the extra ``tls`` and is
imported only if a TLS port is used.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.interfaces import IReactorUNIX, IStreamServerEndpoint
from twisted.python.failure import Failure

from taskqd.errors import StartRefused

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

KINDS = ("tls", "ssl")
CLIENT_CA = ("ca", "caCertsDir")
"""The arguments that make a port request client certificates."""

_FILES = {
    "key": "key",
    "privateKey": "key",
    "cert": "cert",
    "certKey": "cert",
    "chain": "chain",
    "extraCertChain": "chain",
    "ca": "ca",
    "caCertsDir": "ca_directory",
}
_NUMBERS = {"port": 65535, "backlog": 100_000}
_EXPECTED = "port, interface, backlog, key, cert, chain, ca, or Twisted's names of the files"
BACKLOG = 4096
"""Clients that may wait to be accepted; listen(2) reduces it to net.core.somaxconn."""


class TlsOptions(NamedTuple):
    """The arguments of a TLS endpoint string; the files are in PEM format."""

    port: int
    interface: str
    backlog: int
    key: str
    cert: str
    chain: str | None
    ca: str | None
    ca_directory: str | None


class TlsFiles(NamedTuple):
    """The contents of an endpoint's files.

    ``key`` is one of cryptography's private keys. ``chain`` begins with the daemon's certificate.
    ``authorities`` are the CAs of clients.
    """

    key: Any
    chain: "tuple[Certificate, ...]"
    authorities: "tuple[Certificate, ...]"


def parse_options(arguments: Iterable[tuple[str, str]]) -> TlsOptions:
    """Parse the (name, value) of each argument behind the kind; raises ValueError if one is invalid."""
    found: dict[str, str] = {}
    for given, value in arguments:
        name = given or "port"
        if name.lower() == "sslmethod":
            raise ValueError(
                f"{name} is not supported: both sides use the newest version that they have, from TLS 1.2"
            )
        if name not in (*_FILES, *_NUMBERS, "interface"):
            raise ValueError(f"expected {_EXPECTED}, not {name}={value}")
        meaning = _FILES.get(name, name)
        if meaning in found:
            raise ValueError(f"{meaning} is given twice, the second time as {given or value}")
        if not value and meaning != "interface":
            raise ValueError(f"{name} has no value")
        found[meaning] = value
    for name in ("port", "key"):
        if name not in found:
            raise ValueError(f"no {name} is given: expected tls:PORT:key=FILE:cert=FILE")
    return TlsOptions(
        port=_number(found, "port"),
        interface=found.get("interface", ""),
        backlog=_number({"backlog": str(BACKLOG), **found}, "backlog"),
        key=found["key"],
        cert=found.get("cert", found["key"]),
        chain=found.get("chain"),
        ca=found.get("ca"),
        ca_directory=found.get("ca_directory"),
    )


def _number(found: dict[str, str], name: str) -> int:
    text, maximum = found[name], _NUMBERS[name]
    if not (text.isascii() and text.isdigit() and int(text) <= maximum):
        raise ValueError(f"{name}: expected a number up to {maximum}, not {text!r}")
    return int(text)


def load_files(options: TlsOptions) -> TlsFiles:
    """Load the files; raises StartRefused, naming the one that cannot be used and what to do."""
    _load_openssl()
    key = _read_key(options.key)
    chain = _read_certificates(options.cert)
    if not _is_pair(chain[0], key):
        first = f"{options.cert} ({_subject(chain[0])})"
        raise StartRefused(
            f"the certificate in {first} does not belong to the key in {options.key}; "
            "if a file has several certificates, the daemon's must be the first"
        )
    chain += _read_certificates(options.chain) if options.chain else ()
    authorities = _read_certificates(options.ca) if options.ca else ()
    authorities += _read_directory(options.ca_directory) if options.ca_directory else ()
    return TlsFiles(key, chain, authorities)


def server(reactor: IReactorUNIX, options: TlsOptions, files: TlsFiles) -> IStreamServerEndpoint:
    """Return the endpoint; raises StartRefused if OpenSSL does not accept the files."""
    from OpenSSL import SSL, crypto  # noqa: PLC0415 - an extra that is loaded only if it is used
    from twisted.internet.ssl import CertificateOptions, TLSVersion  # noqa: PLC0415 - as above

    clients: dict[str, Any] = {}
    if files.authorities:
        # Requested, and verified if one is presented; clients without one may AUTH.
        trusted = [crypto.X509.from_cryptography(each) for each in files.authorities]
        clients = {"verify": True, "requireCertificate": False, "caCerts": trusted}
    ours: list[Any] = list(files.chain)  # pyOpenSSL accepts these; Twisted's types still demand its X509
    certificates = CertificateOptions(
        privateKey=files.key,
        certificate=ours[0],
        extraCertChain=ours[1:],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        **clients,
    )
    try:
        certificates.getContext()
    except (SSL.Error, crypto.Error) as error:
        raise StartRefused(
            f"OpenSSL does not accept {options.cert} and {options.key}: {_reason(error)}"
        ) from None
    return SSL4ServerEndpoint(reactor, options.port, certificates, options.backlog, options.interface)


def validity_warnings(files: TlsFiles, now: float) -> Iterator[str]:
    """Yield a warning for each certificate that is not valid at a time: clients will refuse it."""
    moment = datetime.fromtimestamp(now, timezone.utc)
    for kind, certificates in (("certificate", files.chain), ("CA", files.authorities)):
        for each in certificates:
            name = f"the {kind} {_subject(each)}"
            if each.not_valid_after_utc < moment:
                yield f"{name} has expired at {each.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}: renew it"
            elif each.not_valid_before_utc > moment:
                yield f"{name} is not valid before {each.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"


def handshake_error(reason: Failure) -> str | None:
    """Return OpenSSL's reason if a connection was lost because of TLS, otherwise None."""
    error: Any = reason.value
    return _reason(error) if reason.check("OpenSSL.SSL.Error") else None


def _load_openssl() -> None:
    try:
        import OpenSSL  # noqa: F401, PLC0415 - an extra that is loaded only if it is used
    except ImportError as error:
        raise StartRefused(
            f"TLS needs pyOpenSSL: in the clone of taskqd, pip install '.[tls]' ({error})"
        ) from None


def _reason(error: BaseException) -> str:
    """Return the last reason of an OpenSSL error, which holds a queue of (library, function, reason)."""
    queue = error.args[0] if error.args else None
    if isinstance(queue, (list, tuple)) and queue:
        return str(queue[-1][-1])
    return str(error) or "no reason given"


def _subject(certificate: "Certificate") -> str:
    return certificate.subject.rfc4514_string() or "without a subject"


def _is_pair(certificate: "Certificate", key: Any) -> bool:
    return bool(certificate.public_key() == key.public_key())


# The files.


def _read_key(path: str) -> Any:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - comes with OpenSSL

    data = _read(path, is_secret=True)
    try:
        return serialization.load_pem_private_key(data, None)
    except TypeError:
        raise StartRefused(f"the key in {path} has a passphrase; `openssl pkey` writes it without") from None
    except Exception as error:  # noqa: BLE001 - cryptography has exceptions beside ValueError
        raise StartRefused(f"{path} has no key in PEM format: {error}") from None


def _read_certificates(path: str) -> "tuple[Certificate, ...]":
    from cryptography import x509  # noqa: PLC0415 - comes with OpenSSL

    try:
        return tuple(x509.load_pem_x509_certificates(_read(path)))
    except ValueError as error:
        raise StartRefused(f"{path} has no certificates in PEM format: {error}") from None


def _read_directory(path: str) -> "tuple[Certificate, ...]":
    try:
        names = sorted(name for name in os.listdir(path) if name.lower().endswith(".pem"))
    except OSError as error:
        raise StartRefused(f"the directory {path} cannot be read: {error.strerror}") from None
    if not names:
        raise StartRefused(f"the directory {path} has no file *.pem, so no CA")
    return tuple(each for name in names for each in _read_certificates(os.path.join(path, name)))


def _read(path: str, *, is_secret: bool = False) -> bytes:
    try:
        with open(path, "rb") as file:
            if is_secret:
                _check_key_mode(path, os.fstat(file.fileno()))
            return file.read()
    except OSError as error:
        raise StartRefused(f"{path} cannot be read: {error.strerror}") from None


def _check_key_mode(path: str, found: os.stat_result) -> None:
    """Refuse a key that others may read; the group may read root's, as with Debian's ssl-cert."""
    mode = stat.S_IMODE(found.st_mode)
    if mode & (0o037 if found.st_uid == 0 else 0o077):
        raise StartRefused(f"others can read the key {path} (mode {mode:03o}): chmod 600 {path}")
