"""WeChat Pay, API v3: Native payments (a QR code), through the library `wechatpayv3`.

Source: pay.weixin.qq.com/doc/v3/merchant, Native payments, refunds and their notifications, signatures and decryption.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from wechatpayv3 import WeChatPay, WeChatPayType
from wechatpayv3.utils import aes_decrypt, rsa_verify

from api.payments.provider import Acknowledgement, check_time, lower_case, notice_of, refund_key, text_of
from api.payments.wechat_keys import PlatformKey
from contracts.errors import BadSignature, Invalid, PaymentRefused, Unavailable, UnreadableCallback
from contracts.messages import Moment
from contracts.payments import (
    Charge,
    Outcome,
    PaymentNotice,
    ProviderId,
    Refunded,
    Started,
    decimal_places,
    main_units,
    minor_units,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

NAME = "wechat"
CURRENCY = "CNY"  # the only one of mainland merchants; refund notifications do not even name it
_DESCRIPTION_CHARS_MAX = 127
_REASON_CHARS_MAX = 80
_REFUND_NO_CHARS_MAX = 64

_SIGNATURE_TYPE = "WECHATPAY2-SHA256-RSA2048"
_TRADE_NO = re.compile(r"([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})\Z")

_Units = Annotated[int, msgspec.Meta(ge=0, le=10**15)]


class _Resource(msgspec.Struct):
    algorithm: Literal["AEAD_AES_256_GCM"]
    ciphertext: str
    nonce: str
    associated_data: str | None = None


class _Envelope(msgspec.Struct):
    id: ProviderId
    event_type: str
    resource: _Resource


class _Paid(msgspec.Struct):
    total: _Units
    currency: str = CURRENCY


class _Transaction(msgspec.Struct):
    mchid: str
    out_trade_no: str
    transaction_id: str
    trade_state: Literal["SUCCESS"]
    success_time: Moment
    amount: _Paid


class _GivenBack(msgspec.Struct):
    refund: _Units


class _Refund(msgspec.Struct):
    mchid: str
    out_trade_no: str
    transaction_id: str
    refund_status: Literal["SUCCESS"]
    success_time: Moment
    amount: _GivenBack


class _FailedRefund(msgspec.Struct):
    out_refund_no: str
    refund_status: str


class _CodeUrl(msgspec.Struct):
    code_url: str


class _RefundAnswer(msgspec.Struct):
    refund_id: str
    status: Literal["SUCCESS", "CLOSED", "PROCESSING", "ABNORMAL"]


_envelope = msgspec.json.Decoder(_Envelope)
_transaction = msgspec.json.Decoder(_Transaction)
_refund = msgspec.json.Decoder(_Refund)
_failed_refund = msgspec.json.Decoder(_FailedRefund)


class WeChatProvider:
    """WeChat Pay of one merchant.

    `private_key` (PEM, PKCS #8) and `certificate_serial` are the merchant's, `apiv3_key` decrypts notifications.
    `platform_keys` are WeChat Pay's, by id or certificate serial number; the first one is asked to sign answers.
    Notifications come to `notify_url`. Raises ValueError for a private key that cannot be read.
    """

    name = NAME
    methods = frozenset({"wechat"})
    acknowledgement = Acknowledgement(200, b'{"code":"SUCCESS","message":"OK"}', "application/json")

    def __init__(
        self,
        *,
        mchid: str,
        appid: str,
        apiv3_key: str,
        private_key: str,
        certificate_serial: str,
        platform_keys: Mapping[str, PlatformKey],
        notify_url: str,
        replay_window_s: float,
        timeout_s: float,
    ) -> None:
        self._mchid = mchid
        self._apiv3_key = apiv3_key
        self._keys = {_serial(name): key for name, key in platform_keys.items()}
        self._replay_window_s = replay_window_s
        key_id, first = next(iter(platform_keys.items()))
        try:
            self._client = WeChatPay(
                wechatpay_type=WeChatPayType.NATIVE,
                mchid=mchid,
                appid=appid,
                apiv3_key=apiv3_key,
                private_key=private_key,
                cert_serial_no=certificate_serial,
                public_key=first.pem(),
                public_key_id=key_id,
                notify_url=notify_url,
                timeout=(timeout_s, timeout_s),
            )
        except Exception as error:  # the library raises bare Exception
            raise ValueError(str(error)) from error

    def read_callback(self, headers: Mapping[str, str], body: bytes, now: datetime) -> PaymentNotice | None:
        self._verify(lower_case(headers), text_of(body), now)
        try:
            envelope = _envelope.decode(body)
            match envelope.event_type:
                case "TRANSACTION.SUCCESS":
                    return self._paid(envelope)
                case "REFUND.SUCCESS":
                    return self._refunded(envelope)
                case "REFUND.ABNORMAL" | "REFUND.CLOSED":
                    failed = _failed_refund.decode(self._decrypt(envelope))
                    logger.error(
                        "WeChat Pay could not refund: %s is %s",
                        failed.out_refund_no,
                        failed.refund_status,
                        extra={"action": "refund_failed"},
                    )
        except (msgspec.DecodeError, RecursionError) as error:
            raise UnreadableCallback(f"the notification cannot be read: {error}") from error
        return None

    async def start(self, charge: Charge) -> Started:
        answer = await _answered(
            self._client.pay,
            description=charge.description[:_DESCRIPTION_CHARS_MAX],
            out_trade_no=trade_no_of(charge.order_id),
            amount={"total": _fen(charge), "currency": CURRENCY},
            time_expire=charge.expires_at.isoformat(timespec="seconds"),
        )
        return Started("qr", _understood(answer, _CodeUrl).code_url)

    async def refund(self, charge: Charge, reference: str, reason: str) -> Refunded:
        fen = _fen(charge)
        number = refund_key(reference)
        if len(number) > _REFUND_NO_CHARS_MAX:
            raise Invalid(f"{reference} is not a transaction id of WeChat Pay's")
        answer = await _answered(
            self._client.refund,
            out_refund_no=number,
            transaction_id=reference,
            reason=reason[:_REASON_CHARS_MAX],
            amount={"refund": fen, "total": fen, "currency": CURRENCY},
        )
        refund = _understood(answer, _RefundAnswer)
        if refund.status in ("CLOSED", "ABNORMAL"):
            raise PaymentRefused(f"WeChat Pay: the refund {refund.refund_id} is {refund.status}")
        return Refunded(refund.refund_id, final=refund.status == "SUCCESS")

    async def close(self) -> None:
        pass

    def _verify(self, headers: dict[str, str], text: str, now: datetime) -> None:
        try:
            signature, seconds, nonce, serial = (
                headers[f"wechatpay-{name}"] for name in ("signature", "timestamp", "nonce", "serial")
            )
        except KeyError as error:
            raise BadSignature(f"the header {error.args[0]} is missing") from error
        if headers.get("wechatpay-signature-type", _SIGNATURE_TYPE) != _SIGNATURE_TYPE or not nonce.isascii():
            raise BadSignature(f"only signatures of the type {_SIGNATURE_TYPE} are taken")
        check_time(seconds, now, self._replay_window_s)
        platform = self._keys.get(_serial(serial))
        if platform is None or not platform.valid_from <= now <= platform.valid_until:
            raise BadSignature(
                "the signature's serial number is of no valid key of WeChat Pay's that is known here"
            )
        if not rsa_verify(seconds, nonce, text, signature, platform.key):
            raise BadSignature("the signature is not of this body by WeChat Pay's key")

    def _decrypt(self, envelope: _Envelope) -> str:
        resource = envelope.resource
        try:
            text: str | None = aes_decrypt(
                resource.nonce, resource.ciphertext, resource.associated_data or "", self._apiv3_key
            )
        except ValueError as error:
            raise UnreadableCallback(f"the notification cannot be decrypted: {error}") from error
        if text is None:
            raise UnreadableCallback(
                "the notification cannot be decrypted; compare the APIv3 key with the merchant's"
            )
        return text

    def _paid(self, envelope: _Envelope) -> PaymentNotice | None:
        of = _transaction.decode(self._decrypt(envelope))
        return self._told(envelope, of, "paid", of.amount.total, of.amount.currency)

    def _refunded(self, envelope: _Envelope) -> PaymentNotice | None:
        of = _refund.decode(self._decrypt(envelope))
        return self._told(envelope, of, "refunded", of.amount.refund, CURRENCY)

    def _told(
        self, envelope: _Envelope, of: _Transaction | _Refund, outcome: Outcome, units: int, currency: str
    ) -> PaymentNotice | None:
        order_id = order_id_of(of.out_trade_no)
        if of.mchid != self._mchid or order_id is None:
            return None
        try:
            amount = main_units(units, decimal_places(currency))
        except Invalid as error:
            raise UnreadableCallback(str(error)) from error
        return notice_of(
            provider=NAME,
            event_id=envelope.id,
            order_id=order_id,
            outcome=outcome,
            amount=amount,
            currency=currency,
            occurred_at=of.success_time,
            reference=of.transaction_id,
        )


def trade_no_of(order_id: str) -> str:
    """The order id as WeChat Pay takes it: at most 32 of 0-9 a-z A-Z _ - *."""
    return order_id.replace("-", "")


def order_id_of(trade_no: str) -> str | None:
    """The order id in a trade number; None if it is of something else that the merchant sells."""
    groups = _TRADE_NO.match(trade_no)
    return "-".join(groups.groups()) if groups else None


def _fen(charge: Charge) -> int:
    if charge.currency != CURRENCY:
        raise Invalid(f"WeChat Pay takes {CURRENCY}, not {charge.currency}")
    return minor_units(charge.amount, decimal_places(CURRENCY))


def _serial(text: str) -> str:
    """An id or serial number in the one form that is compared."""
    return text.upper().lstrip("0")


async def _answered(call: Callable[..., tuple[int, str]], **fields: Any) -> str:
    """The body of a good answer, its signature verified; asked for in a thread, as the library blocks.

    Raises PaymentRefused for a clear no, else Unavailable: also for a signature that does not hold, which comes after
    WeChat Pay has acted, and which it sends on purpose now and then.
    """
    try:
        status, answer = await asyncio.to_thread(call, **fields)
    except Exception as error:  # the library raises bare Exception
        raise Unavailable(f"WeChat Pay: {error}") from error
    if 200 <= status < 300:
        return answer
    if 400 <= status < 500 and status != 429:
        raise PaymentRefused(f"WeChat Pay: {status} {answer[:500]}")
    raise Unavailable(f"WeChat Pay: {status} {answer[:500]}")


def _understood(answer: str, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=type_)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unavailable(f"WeChat Pay: the answer cannot be read: {error}") from error
