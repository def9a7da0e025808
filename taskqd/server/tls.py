"""TLS endpoint strings -> what a port secures its connections with: a certificate, its key, the clients' CA.

``tls:`` and ``ssl:`` are the same to us, and Twisted's names for the files mean what ours mean. TLS is spoken
from version 1.2 on. With a CA, a client may show a certificate: one that the CA does not vouch for ends the
handshake, so nobody who is let in has one that was not verified. Whom it names is left to ``access``. OpenSSL
is loaded where a TLS port is asked for and not before: it comes with ``taskqd[tls]``.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python.failure import Failure

from taskqd.errors import StartRefused

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

KINDS = ("tls", "ssl")
CLIENT_CA = ("ca", "caCertsDir")
"""The arguments of which either makes a port ask for client certificates."""

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
"""This many clients may wait to be let in; listen(2) takes it for net.core.somaxconn if that is less."""


class TlsOptions(NamedTuple):
    """What a TLS endpoint string says: where to listen, and which files to listen with, each in PEM."""

    port: int
    interface: str
    backlog: int
    key: str
    cert: str
    chain: str | None
    ca: str | None
    ca_directory: str | None


class TlsFiles(NamedTuple):
    """What the files of an endpoint hold: our certificate with those that link it to its CA, and the CAs."""

    key: Any
    chain: "tuple[Certificate, ...]"
    authorities: "tuple[Certificate, ...]"


def parse_options(arguments: Iterable[tuple[str, str]]) -> TlsOptions:
    """Read the (name, value) of each argument that follows the kind; raises ValueError for what is none."""
    found: dict[str, str] = {}
    for given, value in arguments:
        name = given or "port"
        if name.lower() == "sslmethod":
            raise ValueError(f"{name} is not taken: TLS 1.2 or newer is spoken, whichever both sides have")
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
    text, most = found[name], _NUMBERS[name]
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise ValueError(f"{name}: expected a number up to {most}, not {text!r}")
    return int(text)


def load_files(options: TlsOptions) -> TlsFiles:
    """Read the files; raises StartRefused, naming the one that cannot be used and what to do."""
    _load_openssl()
    key = _read_key(options.key)
    chain = _read_certificates(options.cert)
    if not _is_pair(chain[0], key):
        first = f"{options.cert} ({_subject(chain[0])})"
        raise StartRefused(
            f"the certificate in {first} is not that of the key in {options.key}; "
            "where a file has several, the daemon's own stands first"
        )
    chain += _read_certificates(options.chain) if options.chain else ()
    authorities = _read_certificates(options.ca) if options.ca else ()
    authorities += _read_directory(options.ca_directory) if options.ca_directory else ()
    return TlsFiles(key, chain, authorities)


def server(reactor: Any, options: TlsOptions, files: TlsFiles) -> IStreamServerEndpoint:
    """Return the endpoint; raises StartRefused where OpenSSL does not take the papers."""
    from OpenSSL import SSL, crypto  # noqa: PLC0415 - an extra that is loaded only if it is used
    from twisted.internet.ssl import CertificateOptions, TLSVersion  # noqa: PLC0415 - as above

    clients: dict[str, Any] = {}
    if files.authorities:
        # Asked for and, if there is one, verified; who has none may AUTH.
        trusted = [crypto.X509.from_cryptography(each) for each in files.authorities]
        clients = {"verify": True, "requireCertificate": False, "caCerts": trusted}
    ours: list[Any] = list(files.chain)  # what pyOpenSSL wants now, though Twisted's types say its own X509
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
            f"OpenSSL does not take {options.cert} and {options.key}: {_reason(error)}"
        ) from None
    return SSL4ServerEndpoint(reactor, options.port, certificates, options.backlog, options.interface)


def validity_warnings(files: TlsFiles, now: float) -> Iterator[str]:
    """Yield a line for each certificate that is not valid at ``now``, so that nobody should take it."""
    moment = datetime.fromtimestamp(now, timezone.utc)
    for kind, certificates in (("certificate", files.chain), ("CA", files.authorities)):
        for each in certificates:
            whose = f"the {kind} {_subject(each)}"
            if each.not_valid_after_utc < moment:
                yield f"{whose} has expired at {each.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}: renew it"
            elif each.not_valid_before_utc > moment:
                yield f"{whose} is not valid before {each.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"


def handshake_error(reason: Failure) -> str | None:
    """Return why TLS with a client came to nothing, in OpenSSL's words; None where it did not."""
    error: Any = reason.value
    return _reason(error) if reason.check("OpenSSL.SSL.Error") else None


def _load_openssl() -> None:
    try:
        import OpenSSL  # noqa: F401, PLC0415 - an extra that is loaded only if it is used
    except ImportError as why:
        raise StartRefused(f"TLS needs more than is installed: pip install 'taskqd[tls]' ({why})") from None


def _reason(error: BaseException) -> str:
    """Return the last reason of an OpenSSL error, which holds a queue of (library, function, reason)."""
    queue = error.args[0] if error.args else None
    if isinstance(queue, (list, tuple)) and queue:
        return str(queue[-1][-1])
    return str(error) or "no reason is given"


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
        raise StartRefused(f"the key in {path} has a passphrase; `openssl pkey` makes one without") from None
    except Exception as why:  # noqa: BLE001 - it has errors of its own beside ValueError
        raise StartRefused(f"{path} has no key in PEM form: {why}") from None


def _read_certificates(path: str) -> "tuple[Certificate, ...]":
    from cryptography import x509  # noqa: PLC0415 - comes with OpenSSL

    try:
        return tuple(x509.load_pem_x509_certificates(_read(path)))
    except ValueError as why:
        raise StartRefused(f"{path} has no certificates in PEM form: {why}") from None


def _read_directory(path: str) -> "tuple[Certificate, ...]":
    try:
        names = sorted(name for name in os.listdir(path) if name.lower().endswith(".pem"))
    except OSError as why:
        raise StartRefused(f"the directory {path} cannot be read: {why.strerror}") from None
    if not names:
        raise StartRefused(f"the directory {path} has no file *.pem, so no CA")
    return tuple(each for name in names for each in _read_certificates(os.path.join(path, name)))


def _read(path: str, *, is_secret: bool = False) -> bytes:
    try:
        with open(path, "rb") as file:
            if is_secret:
                _refuse_if_open(path, os.fstat(file.fileno()))
            return file.read()
    except OSError as why:
        raise StartRefused(f"{path} cannot be read: {why.strerror}") from None


def _refuse_if_open(path: str, found: os.stat_result) -> None:
    """Refuse a key that others may read; root's may be read by its group, as Debian's ssl-cert has it."""
    mode = stat.S_IMODE(found.st_mode)
    if mode & (0o037 if found.st_uid == 0 else 0o077):
        raise StartRefused(f"the key {path} is open to others with its mode {mode:03o}: chmod 600 {path}")
