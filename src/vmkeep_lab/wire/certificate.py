"""Make the self-signed certificate that a host's HTTPS listener shows."""

import hashlib
import ipaddress
import os
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vmkeep_lab import clock

_YEARS: Final = 10


def make_certificate(folder: Path, host_name: str) -> tuple[Path, Path]:
    """Return certificate and key in ``folder``, made now where they are missing; the key is 0600."""
    certificate, key_file = folder / "winrm.crt", folder / "winrm.key"
    if certificate.exists() and key_file.exists():
        return certificate, key_file
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_name[:64])])
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName(host_name),
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
    )
    begin = clock.now() - timedelta(days=1)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=365 * _YEARS))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(
        key_file,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        0o600,
    )
    _write(certificate, signed.public_bytes(serialization.Encoding.PEM), 0o644)
    return certificate, key_file


def binding_of(certificate: Path) -> bytes:
    """Return what a login through this certificate's channel is bound to (RFC 5929, section 4.1)."""
    der = x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
    return b"tls-server-end-point:" + hashlib.sha256(der).digest()  # it is signed with SHA-256, see above


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file that has its mode before it has contents."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
