"""What payment providers are configured by. Each field is the variable `SLUICEWAY_<FIELD IN CAPITALS>`."""

import msgspec

from contracts.settings import Positive, Seconds


class PaymentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of payment providers. A provider is offered if its secrets are set."""

    payment_replay_window_s: Positive = 300  # how old, or ahead, the signature of a callback may be
    payment_timeout_s: Seconds = 10.0  # for a provider's answer
    payment_plugins: str = ""  # entry points of further providers, comma-separated

    sandbox_secrets: str = ""  # comma-separated, each at least 32 bytes; the first signs, all are taken
    sandbox_shares: str = (
        "declines=0.05,pays_twice=0.02,pays_late=0.02,pays_wrong_amount=0.01,never_pays=0.05"
    )

    stripe_secret_key: str = ""
    stripe_webhook_secret: str = ""

    wechat_mchid: str = ""
    wechat_appid: str = ""
    wechat_apiv3_key: str = ""
    wechat_private_key_file: str = ""  # the merchant's, PEM (apiclient_key.pem)
    wechat_certificate_serial: str = ""  # of the merchant's certificate
    wechat_public_key_id: str = ""  # of WeChat Pay's public key, PUB_KEY_ID_...
    wechat_public_key_file: str = ""  # that key, PEM (pub_key.pem)
    wechat_certificates_file: str = ""  # or WeChat Pay's platform certificates, PEM, one after the other

    api_public_url: str = ""
