"""Which payment providers are configured: all or nothing of each, and nothing imported for those that are not."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.payments.behaviour import Shares
from api.payments.provider import PaymentProvider
from api.payments.providers import build, by_method
from contracts.errors import BadSignature, SettingsError
from contracts.settings import PREFIX, Settings
from tests.harness import NOON
from tests.unit.payment_senders import (
    APIV3_KEY,
    CHARGE,
    MERCHANT_KEY,
    PAID,
    PLATFORM_KEY,
    PLATFORM_KEY_ID,
    SANDBOX_SECRET,
    STRIPE_SECRET,
    SandboxSender,
    Sender,
    StripeSender,
    WeChatSender,
    certificate,
    pem_of,
)

ROOT = Path(__file__).parent.parent.parent
SANDBOX = {"sandbox_secrets": SANDBOX_SECRET}
STRIPE = {"stripe_secret_key": "sk_test_1", "stripe_webhook_secret": STRIPE_SECRET}
SERIAL = 0x5A467448AF5A7CCA
PLUGIN = """
class Cash:
    name = "{name}"
    methods = frozenset({{"cash", "card"}})
"""


@pytest.fixture
def wechat(tmp_path: Path) -> dict[str, str]:
    """Settings of WeChat Pay, with a public key."""
    public = PLATFORM_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "pub_key.pem").write_bytes(public)
    (tmp_path / "apiclient_key.pem").write_text(pem_of(MERCHANT_KEY))
    return {
        "wechat_mchid": "1900007291",
        "wechat_appid": "wxd678efh567hg6787",
        "wechat_apiv3_key": APIV3_KEY,
        "wechat_private_key_file": str(tmp_path / "apiclient_key.pem"),
        "wechat_certificate_serial": "5F1C72E2A8931B72",
        "wechat_public_key_id": PLATFORM_KEY_ID,
        "wechat_public_key_file": str(tmp_path / "pub_key.pem"),
        "api_public_url": "https://shop.example/",
    }


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a package with the entry point `cash`, whose provider has the given name."""

    def install(name: str) -> None:
        (tmp_path / "cash_of_a_test.py").write_text(PLUGIN.format(name=name))
        info = tmp_path / "cash_of_a_test-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cash-of-a-test\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[sluiceway.payment_providers]\ncash = cash_of_a_test:Cash\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "cash_of_a_test", raising=False)

    return install


def built(**values: Any) -> dict[str, PaymentProvider]:
    return build(Settings(**values))


def wrong(why: str, **values: Any) -> None:
    with pytest.raises(SettingsError, match=why):
        built(**values)


def test_nothing_configured_nothing_offered() -> None:
    assert built() == {}
    assert by_method({}) == {}
    assert built(api_public_url="https://shop.example") == {}


def test_each_reads_what_is_signed_for_it(wechat: dict[str, str]) -> None:
    providers = built(**SANDBOX, **STRIPE, **wechat)
    assert list(providers) == ["wechat", "stripe", "sandbox"]
    senders: dict[str, Sender] = {
        "wechat": WeChatSender(),
        "stripe": StripeSender(),
        "sandbox": SandboxSender(),
    }
    for name, sender in senders.items():
        body = sender.body(PAID)
        notice = providers[name].read_callback(sender.headers(body, NOON), body, NOON)
        assert notice is not None
        assert notice.provider == providers[name].name == name


def test_the_window_is_the_configured_one(wechat: dict[str, str]) -> None:
    providers = built(**SANDBOX, **STRIPE, **wechat, payment_replay_window_s=1000)
    for sender in (WeChatSender(), StripeSender(), SandboxSender()):
        body, later = sender.body(PAID), NOON + timedelta(seconds=1000)
        assert (
            providers[sender.provider.name].read_callback(sender.headers(body, NOON), body, later) is not None
        )


def test_a_real_provider_goes_before_the_sandbox(wechat: dict[str, str]) -> None:
    def serving(**values: Any) -> dict[str, str]:
        return {method: provider.name for method, provider in by_method(built(**values)).items()}

    all_sandbox = dict.fromkeys(("alipay", "card", "sandbox", "wechat"), "sandbox")
    assert serving(**SANDBOX) == all_sandbox
    assert serving(**SANDBOX, **STRIPE) == all_sandbox | {"alipay": "stripe", "card": "stripe"}
    assert serving(**wechat) == {"wechat": "wechat"}


@pytest.mark.parametrize("missing", STRIPE)
def test_stripe_in_part(missing: str) -> None:
    wrong(f"Stripe is configured in part: set {PREFIX}{missing.upper()} too", **(STRIPE | {missing: ""}))


@pytest.mark.parametrize(
    "missing",
    [
        "wechat_mchid",
        "wechat_appid",
        "wechat_apiv3_key",
        "wechat_private_key_file",
        "wechat_certificate_serial",
        "wechat_public_key_id",
        "wechat_public_key_file",
    ],
)
def test_wechat_in_part(wechat: dict[str, str], missing: str) -> None:
    wrong(f"WeChat Pay is configured in part: set {PREFIX}{missing.upper()} too", **(wechat | {missing: ""}))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stripe_secret_key": "pk_live_1"}, "STRIPE_SECRET_KEY must be a secret key"),
        (
            {"stripe_webhook_secret": "sk_test_1"},
            "STRIPE_WEBHOOK_SECRET must be an endpoint's signing secret",
        ),
        ({"sandbox_secrets": "short"}, "SANDBOX_SECRETS: each must have at least 32 bytes"),
        ({"sandbox_secrets": f"{SANDBOX_SECRET},short"}, "SANDBOX_SECRETS"),
        ({"wechat_apiv3_key": "short"}, "WECHAT_APIV3_KEY must have 32 bytes"),
        ({"wechat_private_key_file": "/nowhere/key.pem"}, "WECHAT_PRIVATE_KEY_FILE.*No such file"),
        ({"wechat_public_key_file": "/nowhere/key.pem"}, "WECHAT_PUBLIC_KEY_FILE.*No such file"),
        ({"wechat_certificates_file": "/nowhere/certs.pem"}, "WECHAT_CERTIFICATES_FILE.*No such file"),
        ({"wechat_private_key_file": __file__}, "WECHAT_PRIVATE_KEY_FILE: failed to load private key"),
        ({"wechat_public_key_file": __file__}, "WECHAT_PUBLIC_KEY_FILE holds no PEM public key"),
        ({"wechat_certificates_file": __file__}, "WECHAT_CERTIFICATES_FILE holds no PEM certificates"),
        ({"api_public_url": ""}, "API_PUBLIC_URL must be https://"),
        ({"api_public_url": "http://shop.example"}, "API_PUBLIC_URL must be https://"),
    ],
)
def test_values_that_cannot_work(wechat: dict[str, str], changes: dict[str, str], why: str) -> None:
    wrong(why, **(SANDBOX | STRIPE | wechat | changes))


def test_a_private_key_that_is_not_text(wechat: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "der").write_bytes(b"\x30\x82\xff\xfe")
    wrong("WECHAT_PRIVATE_KEY_FILE", **(wechat | {"wechat_private_key_file": str(tmp_path / "der")}))


def test_keys_of_another_kind(wechat: dict[str, str], tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "ec.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    wrong("must hold an RSA key", **(wechat | {"wechat_public_key_file": str(tmp_path / "ec.pem")}))


def test_everything_wrong_is_told_at_once(wechat: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as raised:
        built(
            stripe_secret_key="sk_test_1", sandbox_secrets="short", wechat_mchid="1", payment_plugins="cash"
        )
    for part in ("STRIPE_WEBHOOK_SECRET", "SANDBOX_SECRETS", "WECHAT_APPID", "PAYMENT_PLUGINS"):
        assert PREFIX + part in str(raised.value)


def test_platform_certificates_in_place_of_the_public_key(wechat: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "certs.pem").write_bytes(certificate(PLATFORM_KEY, SERIAL, NOON - timedelta(days=1), 30))
    keys = {"wechat_public_key_id": "", "wechat_public_key_file": ""}
    provider = built(**(wechat | keys | {"wechat_certificates_file": str(tmp_path / "certs.pem")}))["wechat"]
    sender = WeChatSender(PLATFORM_KEY, f"{SERIAL:X}")
    body = sender.body(PAID)
    assert provider.read_callback(sender.headers(body, NOON), body, NOON) is not None


def test_certificates_alone_are_configured_in_part(tmp_path: Path) -> None:
    wrong("WeChat Pay is configured in part", wechat_certificates_file=str(tmp_path / "certs.pem"))


def test_a_plug_in_goes_before_all(plug_in: Callable[[str], None]) -> None:
    plug_in("cash")
    providers = built(**SANDBOX, **STRIPE, payment_plugins=" cash ,")
    assert list(providers) == ["cash", "stripe", "sandbox"]
    assert {m: p.name for m, p in by_method(providers).items()} == {
        "alipay": "stripe", "card": "cash", "cash": "cash", "sandbox": "sandbox", "wechat": "sandbox",
    }  # fmt: skip
    assert "cash" not in built(**SANDBOX)


def test_a_plug_in_may_not_take_anothers_name(plug_in: Callable[[str], None]) -> None:
    plug_in("sandbox")
    wrong("two payment providers sandbox", **SANDBOX, payment_plugins="cash")


def test_a_plug_ins_name_is_part_of_a_path(plug_in: Callable[[str], None]) -> None:
    plug_in("Cash/1")
    wrong("must have a name of 1-32", payment_plugins="cash")


def test_plug_ins_that_are_not_installed() -> None:
    wrong("no installed package has the entry point gold, silver", payment_plugins="gold,silver")


def test_the_default_shares_can_be_read() -> None:
    assert Shares.parse(Settings().sandbox_shares).total() < 1


@pytest.mark.parametrize(
    ("values", "expected"), [({}, []), (SANDBOX, []), (STRIPE, ["stripe"])], ids=["none", "sandbox", "stripe"]
)
def test_only_the_library_of_what_is_configured_is_imported(
    values: dict[str, str], expected: list[str]
) -> None:
    script = (
        "import sys\n"
        "from api.payments.providers import build\nfrom contracts.settings import Settings\n"
        f"build(Settings(**{values!r}))\n"
        "print(*sorted({'stripe', 'wechatpayv3', 'requests'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(expected) <= set(done.stdout.split()) <= {*expected, *(["requests"] if expected else [])}


async def test_the_provider_of_the_documentation_is_one() -> None:
    page = (ROOT / "docs/how-to/take-payments.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    fields = msgspec.structs.asdict(PAID)
    fields.pop("provider")
    names: dict[str, Any] = {
        "my_signature_holds": lambda given, text: given["x-mybank-signature"] == text,
        "my_event": lambda text: None if text == "other" else fields,
    }
    exec(code, names)  # noqa: S102 - it is ours
    bank: PaymentProvider = names["MyBank"]()
    headers = {"X-MyBank-Time": str(int(NOON.timestamp())), "X-MyBank-Signature": "paid"}
    assert bank.read_callback(headers, b"paid", NOON) == msgspec.structs.replace(PAID, provider="mybank")
    assert bank.read_callback(headers | {"X-MyBank-Signature": "other"}, b"other", NOON) is None
    for body, now in ((b"forged", NOON), (b"paid", NOON + timedelta(seconds=301))):
        with pytest.raises(BadSignature):
            bank.read_callback(headers, body, now)
    assert (await bank.start(CHARGE)).kind == "redirect"
    assert by_method({"mybank": bank}) == {"bank": bank}
    assert all(hasattr(bank, name) for name in ("acknowledgement", "refund", "close"))
