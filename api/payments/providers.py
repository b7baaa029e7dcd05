"""Which payment providers are configured, and which of them serves a payment method."""

import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from api.payments.provider import PaymentProvider
from api.payments.sandbox import SandboxProvider
from contracts.errors import SettingsError
from contracts.settings import PREFIX, Settings

GROUP = "sluiceway.payment_providers"
CALLBACKS_PATH = "/v1/payments/callbacks/"

_NAME = re.compile(r"[a-z0-9_]{1,32}\Z")
_SECRET_BYTES_MIN = 32
_APIV3_KEY_BYTES = 32


def build(settings: Settings) -> dict[str, PaymentProvider]:
    """The configured providers by name. A library is imported only if its provider is.

    Raises SettingsError that names every variable that is missing or wrong.
    """
    providers: dict[str, PaymentProvider] = {}
    wrong: list[str] = []
    for make in (_plugins, _wechat, _stripe, _sandbox):
        try:
            for provider in make(settings):
                if provider.name in providers:
                    wrong.append(f"there are two payment providers {provider.name}")
                providers[provider.name] = provider
        except SettingsError as error:
            wrong.append(str(error))
    if wrong:
        raise SettingsError("; ".join(wrong))
    return providers


def by_method(providers: Mapping[str, PaymentProvider]) -> dict[str, PaymentProvider]:
    """Who serves a payment method. Of several, the first that `build` names: plug-ins, real ones, the sandbox."""
    serving: dict[str, PaymentProvider] = {}
    for provider in providers.values():
        for method in sorted(provider.methods):
            serving.setdefault(method, provider)
    return serving


def _plugins(settings: Settings) -> list[PaymentProvider]:
    """Providers of other packages: entry points that are called without arguments."""
    names = _split(settings.payment_plugins)
    found = {point.name: point for point in entry_points(group=GROUP)}
    if missing := [name for name in names if name not in found]:
        raise SettingsError(
            f"{_variable('payment_plugins')}: no installed package has the entry point {', '.join(missing)} "
            f"in the group {GROUP}; there are: {', '.join(sorted(found)) or 'none'}"
        )
    made: list[PaymentProvider] = []
    for name in names:
        factory: Callable[[], PaymentProvider] = found[name].load()
        provider = factory()
        if not _NAME.match(provider.name):
            raise SettingsError(
                f"{_variable('payment_plugins')}: {name} must have a name of 1-32 of a-z 0-9 _"
            )
        made.append(provider)
    return made


def _sandbox(settings: Settings) -> list[PaymentProvider]:
    secrets = _split(settings.sandbox_secrets)
    if any(len(secret.encode()) < _SECRET_BYTES_MIN for secret in secrets):
        raise SettingsError(
            f"{_variable('sandbox_secrets')}: each must have at least {_SECRET_BYTES_MIN} bytes"
        )
    return [SandboxProvider(secrets, settings.payment_replay_window_s)] if secrets else []


def _stripe(settings: Settings) -> list[PaymentProvider]:
    if not _given(settings, "Stripe", ("stripe_secret_key", "stripe_webhook_secret")):
        return []
    if not settings.stripe_secret_key.startswith(("sk_", "rk_")):
        raise SettingsError(f"{_variable('stripe_secret_key')} must be a secret key: sk_... or rk_...")
    if not settings.stripe_webhook_secret.startswith("whsec_"):
        raise SettingsError(
            f"{_variable('stripe_webhook_secret')} must be an endpoint's signing secret: whsec_..."
        )
    from api.payments.stripe import StripeProvider  # noqa: PLC0415 - heavy

    return [
        StripeProvider(
            settings.stripe_secret_key,
            settings.stripe_webhook_secret,
            settings.payment_replay_window_s,
            settings.payment_timeout_s,
        )
    ]


def _wechat(settings: Settings) -> list[PaymentProvider]:
    merchant: tuple[str, ...] = (
        "wechat_mchid",
        "wechat_appid",
        "wechat_apiv3_key",
        "wechat_private_key_file",
        "wechat_certificate_serial",
    )
    platform = ("wechat_public_key_id", "wechat_public_key_file")
    if not settings.wechat_certificates_file or any(getattr(settings, name) for name in platform):
        merchant += platform
    if not _given(settings, "WeChat Pay", merchant, also=("wechat_certificates_file",)):
        return []
    if len(settings.wechat_apiv3_key.encode()) != _APIV3_KEY_BYTES:
        raise SettingsError(f"{_variable('wechat_apiv3_key')} must have {_APIV3_KEY_BYTES} bytes")
    if urlsplit(settings.api_public_url).scheme != "https":
        raise SettingsError(
            f"{_variable('api_public_url')} must be https://..., so that WeChat Pay can call back"
        )
    from api.payments.wechat import WeChatProvider  # noqa: PLC0415 - heavy
    from api.payments.wechat_keys import platform_keys  # noqa: PLC0415

    try:
        return [
            WeChatProvider(
                mchid=settings.wechat_mchid,
                appid=settings.wechat_appid,
                apiv3_key=settings.wechat_apiv3_key,
                private_key=_read(settings, "wechat_private_key_file").decode(),
                certificate_serial=settings.wechat_certificate_serial,
                platform_keys=platform_keys(
                    settings.wechat_public_key_id,
                    _read(settings, "wechat_public_key_file"),
                    _read(settings, "wechat_certificates_file"),
                ),
                notify_url=settings.api_public_url.rstrip("/") + CALLBACKS_PATH + "wechat",
                replay_window_s=settings.payment_replay_window_s,
                timeout_s=settings.payment_timeout_s,
            )
        ]
    except ValueError as error:
        raise SettingsError(f"{_variable('wechat_private_key_file')}: {error}") from error


def _given(settings: Settings, what: str, names: tuple[str, ...], also: tuple[str, ...] = ()) -> bool:
    """Whether all of the variables are set. Raises SettingsError if only some are."""
    missing = [_variable(name) for name in names if not getattr(settings, name)]
    if missing and any(getattr(settings, name) for name in names + also):
        raise SettingsError(f"{what} is configured in part: set {', '.join(missing)} too")
    return not missing


def _read(settings: Settings, name: str) -> bytes:
    """What is in the file; nothing if none is set."""
    path = getattr(settings, name)
    try:
        return Path(path).read_bytes() if path else b""
    except OSError as error:
        raise SettingsError(f"{_variable(name)}: {error}") from error


def _split(text: str) -> list[str]:
    return [item for item in (item.strip() for item in text.split(",")) if item]


def _variable(name: str) -> str:
    return PREFIX + name.upper()
