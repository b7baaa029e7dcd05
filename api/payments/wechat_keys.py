"""The keys that WeChat Pay signs with: its public key, or the platform certificates that came before it."""

from datetime import UTC, datetime

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificates

from contracts.errors import SettingsError


class PlatformKey(msgspec.Struct, frozen=True):
    """A key that WeChat Pay signs with, and when it may: always, for one that is not of a certificate."""

    key: RSAPublicKey
    valid_from: datetime = datetime.min.replace(tzinfo=UTC)
    valid_until: datetime = datetime.max.replace(tzinfo=UTC)

    def pem(self) -> str:
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def platform_keys(public_key_id: str, public_key: bytes, certificates: bytes) -> dict[str, PlatformKey]:
    """WeChat Pay's keys by the number that its signatures name: the public key first, then certificates, newest first.

    Either may be missing; both are there while a merchant goes over to the public key. Raises SettingsError.
    """
    keys: dict[str, PlatformKey] = {}
    if public_key_id:
        keys[public_key_id] = PlatformKey(_public_key(public_key))
    return keys | _of_certificates(certificates)


def _public_key(pem: bytes) -> RSAPublicKey:
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise SettingsError(f"SLUICEWAY_WECHAT_PUBLIC_KEY_FILE holds no PEM public key: {error}") from error
    if not isinstance(key, RSAPublicKey):
        raise SettingsError("SLUICEWAY_WECHAT_PUBLIC_KEY_FILE must hold an RSA key")
    return key


def _of_certificates(pem: bytes) -> dict[str, PlatformKey]:
    if not pem:
        return {}
    try:
        certificates = load_pem_x509_certificates(pem)
    except ValueError as error:
        raise SettingsError(
            f"SLUICEWAY_WECHAT_CERTIFICATES_FILE holds no PEM certificates: {error}"
        ) from error
    keys: dict[str, PlatformKey] = {}
    for certificate in sorted(certificates, key=lambda c: c.not_valid_before_utc, reverse=True):
        key = certificate.public_key()
        if not isinstance(key, RSAPublicKey):
            raise SettingsError("SLUICEWAY_WECHAT_CERTIFICATES_FILE must hold certificates of RSA keys")
        keys[f"{certificate.serial_number:X}"] = PlatformKey(
            key, certificate.not_valid_before_utc, certificate.not_valid_after_utc
        )
    return keys
