"""Callbacks that other software signed: recorded with openssl, as the providers document it, and kept as they are."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from api.payments.provider import PaymentProvider
from api.payments.sandbox import SandboxProvider
from api.payments.stripe import StripeProvider
from api.payments.wechat import WeChatProvider
from api.payments.wechat_keys import platform_keys
from contracts.errors import BadSignature
from contracts.payments import PaymentNotice
from tests.unit.payment_senders import MERCHANT_KEY, pem_of

RECORDED: list[dict[str, Any]] = orjson.loads(
    (Path(__file__).parent / "data/payment_callbacks.json").read_bytes()
)


def provider_of(recorded: dict[str, Any]) -> PaymentProvider:
    if recorded["provider"] == "stripe":
        return StripeProvider("sk_test_1", recorded["secret"], 300, 1)
    if recorded["provider"] == "sandbox":
        return SandboxProvider([recorded["secret"]], 300)
    return WeChatProvider(
        mchid=recorded["mchid"],
        appid="wxd678efh567hg6787",
        apiv3_key=recorded["apiv3_key"],
        private_key=pem_of(MERCHANT_KEY),
        certificate_serial="1",
        platform_keys=platform_keys("", b"", recorded["certificate"].encode()),
        notify_url="https://shop.example/v1/payments/callbacks/wechat",
        replay_window_s=300,
        timeout_s=1,
    )


@pytest.fixture(
    params=RECORDED, ids=lambda recorded: f"{recorded['provider']}-{recorded['notice']['outcome']}"
)
def recorded(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def test_a_recorded_callback_is_read(recorded: dict[str, Any]) -> None:
    now = datetime.fromtimestamp(recorded["signed_at"] + 100, UTC)
    notice = provider_of(recorded).read_callback(recorded["headers"], recorded["body"].encode(), now)
    assert notice == msgspec.convert(recorded["notice"], PaymentNotice)


@pytest.mark.parametrize("seconds", [-301, 301, 10**9])
def test_a_recorded_callback_is_of_its_time_alone(recorded: dict[str, Any], seconds: int) -> None:
    now = datetime.fromtimestamp(recorded["signed_at"], UTC) + timedelta(seconds=seconds)
    with pytest.raises(BadSignature):
        provider_of(recorded).read_callback(recorded["headers"], recorded["body"].encode(), now)
