"""Makes certificates for tests: a CA and certificates signed by it, as PEM files in a test's directory."""

import ipaddress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Pair(NamedTuple):
    """The files of a certificate and its key."""

    cert: Path
    key: Path


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def alternative(text: str) -> x509.GeneralName:
    """Return an entry of subjectAltName: an IP address if the text is one, else a DNS name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


class Authority:
    """A CA with its files in ``place``; ``cert`` is the file of its certificate.

    With ``parent`` it is an intermediate CA. With ``is_ca=False`` its certificate says that it is not a CA,
    but it signs nevertheless.
    """

    def __init__(
        self, place: Path, common_name: str = "CA", parent: "Authority | None" = None, *, is_ca: bool = True
    ) -> None:
        self._place = place
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = name(common_name)
        self.parent = parent
        signer = parent or self
        builder = (
            _builder(self._name, signer._name, self._key, timedelta(days=-1), timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=is_ca), critical=True)
            .add_extension(_identifier_of(signer._key), critical=False)
        )
        self._certificate = builder.sign(signer._key, hashes.SHA256())
        self.cert = place / f"{common_name}.pem"
        self.cert.write_bytes(_pem(self._certificate))

    def issue(
        self,
        common_name: str,
        *hosts: str,
        usage: ObjectIdentifier | None = SERVER,
        begins: timedelta = timedelta(days=-1),
        ends: timedelta = timedelta(days=1),
        key: Key | None = None,
    ) -> Pair:
        """Sign a certificate, valid from now + ``begins`` to now + ``ends``; the file has the whole chain."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(name(common_name), self._name, key, begins, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(_identifier_of(self._key), critical=False)
        )
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([alternative(each) for each in hosts])
            builder = builder.add_extension(names, critical=False)
        chain = _pem(builder.sign(self._key, hashes.SHA256()))
        above: Authority | None = self
        while above is not None and above.parent is not None:
            chain += _pem(above._certificate)
            above = above.parent
        return _written(self._place, common_name, chain, key)


def self_signed(place: Path, common_name: str) -> Pair:
    """Make a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name(common_name), name(common_name), key, timedelta(days=-1), timedelta(days=1))
    return _written(place, common_name, _pem(builder.sign(key, hashes.SHA256())), key)


def write_key(path: Path, key: Key, passphrase: bytes | None = None) -> Path:
    """Write a key to a file of mode 600."""
    how: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        how = serialization.BestAvailableEncryption(passphrase)
    path.touch(0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    return path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, begins: timedelta, ends: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _identifier_of(key: Key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _written(place: Path, stem: str, chain: bytes, key: Key) -> Pair:
    while (place / f"{stem}-cert.pem").exists():
        stem += "-again"
    pair = Pair(place / f"{stem}-cert.pem", place / f"{stem}-key.pem")
    pair.cert.write_bytes(chain)
    write_key(pair.key, key)
    return pair
