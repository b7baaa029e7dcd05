"""Signed receipts: proof of a place in the log, carried by the client, so that accepting needs no other write.

A receipt is base64url(payload ‖ mac): payload = version u8, accepted_at_ms u64, then per line partition u16 and
offset u64 (big-endian); mac = 16 bytes of keyed BLAKE2s (RFC 7693 §2.9) over checkout id, buyer id and payload. Of a
command likewise, with the command's id and who asked, and another `person`: it opens no checkout, nor the other way round.
"""

import binascii
import hashlib
import hmac
import struct
from collections.abc import Sequence

import msgspec

from contracts.errors import Invalid

_VERSION = 1
_MAC_BYTES = 16
_HEAD = struct.Struct(">BQ")
_LINE = struct.Struct(">HQ")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")  # RFC 4648 §5
_STANDARD = bytes.maketrans(b"-_", b"+/")

Positions = Sequence[tuple[int, int]]  # (partition, offset) of each line


class Receipt(msgspec.Struct, frozen=True):
    """Where the lines of a checkout lie: `positions` are (partition, offset), in the order of the lines."""

    accepted_at_ms: int
    positions: tuple[tuple[int, int], ...]


class ReceiptSigner:
    """Signs and verifies receipts of checkouts with a secret shared by ingest and api."""

    def __init__(self, secret: str, *, person: bytes = b"receipt") -> None:
        self._secret = secret
        key = hashlib.sha256(secret.encode()).digest()  # of the length that BLAKE2s takes
        self._keyed = hashlib.blake2s(digest_size=_MAC_BYTES, key=key, person=person)

    def of_commands(self) -> "ReceiptSigner":
        """One for receipts of commands."""
        return ReceiptSigner(self._secret, person=b"command")

    def sign(self, checkout_id: str, buyer_id: str, accepted_at_ms: int, positions: Positions) -> str:
        payload = _HEAD.pack(_VERSION, accepted_at_ms)
        for partition, offset in positions:
            payload += _LINE.pack(partition, offset)
        return _text(payload + self._mac(checkout_id, buyer_id, payload))

    def verify(self, text: str, checkout_id: str, buyer_id: str) -> Receipt:
        """The receipt, if it was signed for this checkout and buyer. Raises Invalid otherwise."""
        try:
            raw = binascii.a2b_base64(text.encode("ascii").translate(_STANDARD) + b"=" * (-len(text) % 4))
        except (binascii.Error, ValueError) as error:
            raise Invalid("the receipt is not base64url; use the Location of the 202 as it is") from error
        if _text(raw) != text:  # other characters that decode to the same bytes
            raise Invalid("the receipt is not base64url; use the Location of the 202 as it is")
        payload, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if (
            len(payload) < _HEAD.size + _LINE.size
            or (len(payload) - _HEAD.size) % _LINE.size
            or not hmac.compare_digest(mac, self._mac(checkout_id, buyer_id, payload))
        ):
            raise Invalid(
                "the receipt does not belong to this checkout and buyer; use the Location of the 202 as it is"
            )
        version, accepted_at_ms = _HEAD.unpack_from(payload)
        if version != _VERSION:
            raise Invalid(f"receipt version {version} is not known here")
        return Receipt(accepted_at_ms, tuple(_LINE.iter_unpack(payload[_HEAD.size :])))

    def _mac(self, checkout_id: str, buyer_id: str, payload: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(f"{checkout_id}\0{buyer_id}\0".encode() + payload)
        return mac.digest()


def _text(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE, b"=").decode()
