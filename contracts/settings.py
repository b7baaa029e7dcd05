"""The one configuration: frozen, read from the environment once per process, checked as a whole.

Every field is the variable `SLUICEWAY_<FIELD IN CAPITALS>`. Units end the names: `_s`, `_ms`, `_bytes`, `_max`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from contracts.errors import SettingsError
from contracts.servers import is_http, is_kafka, is_postgres, is_redis

PREFIX = "SLUICEWAY_"

LOG_DAYS = 7  # for how long topics keep messages, dead letters apart

_PARTS_OF_A_URL = "ports are 1 to 65535, an IPv6 address has brackets, and / # ? @ : of a name or password are written %2F %23 %3F %40 %3A"

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of all processes, with their defaults."""

    # Servers
    kafka_url: str = "127.0.0.1:9092"
    postgres_url: str = "postgresql://postgres@127.0.0.1:5432/sluiceway"
    redis_url: str = "redis://127.0.0.1:6379/0"

    # Topics
    topic_prefix: str = "sluiceway"
    partitions: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16
    partition_cache_max: Positive = 100_000
    replication_factor: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    consumer_group: str = "sluiceway-writers"
    cache_prefix: str = "sw:"

    # HTTP
    host: str = "127.0.0.1"
    ingest_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    api_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8081
    worker_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    streams_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    api_public_url: str = (
        ""  # prefix of the Location that ingest gives; empty: relative, both behind one host
    )
    http_connections_max: Positive = 10_000
    http_backlog_max: Positive = 4096
    shutdown_drain_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    shutdown_grace_s: Seconds = 9.0

    # Who may buy
    jwt_hs256_secret: str = ""
    jwt_public_keys_file: str = ""  # PEM public keys, one after the other: RSA for RS256, P-256 for ES256
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_cache_max: Positive = 100_000
    receipt_secret: str = ""

    # Limits of a checkout
    lines_max: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    quantity_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    note_chars_max: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 500
    body_bytes_max: Positive = 64 * 1024

    # Ingest
    produce_linger_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 2.0
    produce_ack_deadline_s: Seconds = 5.0
    produce_queue_max: Positive = 50_000
    produce_queue_bytes_max: Positive = 64 * 1024 * 1024
    produce_batch_bytes: Positive = 512 * 1024
    lag_max: Annotated[int, msgspec.Meta(ge=0)] = 500_000
    gate_refresh_ms: Positive = 100
    gate_stale_s: Seconds = 5.0
    idempotency_ttl_s: Positive = 24 * 3600
    retry_after_s: Positive = 1
    retry_after_max_s: Positive = 30

    # Api
    read_timeout_s: Seconds = 3.0
    addresses_max: Positive = 50
    cart_lines_max: Positive = 100
    import_bytes_max: Positive = 8 * 1024 * 1024
    import_lines_max: Positive = 10_000
    imports_max: Positive = 4

    # Life of an order
    hold_ttl_s: Seconds = 30.0
    timer_interval_s: Seconds = 1.0
    timer_again_s: Seconds = 30.0  # what was asked for and is not decided is asked for again
    timer_rows_max: Positive = 5000

    # Payment providers: one is offered if its secrets are set
    payment_replay_window_s: Positive = 300  # how old, or ahead, the signature of a callback may be
    payment_timeout_s: Seconds = 10.0  # for a provider's answer
    payment_plugins: str = ""  # entry points of further providers, comma-separated

    # Giving back what is due back
    refund_deadline_s: Seconds = 30.0  # for all answers to one round
    refund_rows_max: Positive = 100  # of a round
    refund_calls_max: Positive = 8
    refund_retry_s: Seconds = 5.0  # doubled with each try, up to
    refund_retry_max_s: Seconds = 3600.0
    refund_failures_max: Positive = 5  # in a row, after which a provider is left alone for
    refund_circuit_s: Seconds = 30.0

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

    # Workers
    batch_rows_max: Positive = 4000
    batch_bytes_max: Positive = 8 * 1024 * 1024
    batch_linger_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 10.0
    fetch_bytes_max: Positive = 8 * 1024 * 1024
    # How long a broker keeps a fetch that finds nothing. The client has one under way at a time for each broker: while
    # it waits for quiet partitions, the busy one is not fetched.
    fetch_wait_max_ms: Positive = 100
    idle_beat_s: Seconds = 1.0
    session_timeout_ms: Positive = 6000
    stall_exit_s: Seconds = 60.0
    not_ready_after_s: Seconds = 5.0
    result_ttl_s: Positive = 3600
    cache_timeout_s: Seconds = 0.5
    cache_retry_s: Seconds = 1.0
    redis_pool_max: Positive = 64
    postgres_timeout_s: Seconds = 15.0
    postgres_pool_max: Positive = 4

    # A second stock source
    stock_source_url: str = ""
    stock_source_token: str = ""
    stock_source_deadline_s: Seconds = 1.0
    stock_source_calls_max: Positive = 16
    stock_source_failures_max: Positive = 5
    stock_source_retry_s: Seconds = 5.0

    # History
    partition_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 90
    retention_days: Annotated[int, msgspec.Meta(ge=0, le=36500)] = 0  # 0 keeps everything
    archive_dir: str = ""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Read `SLUICEWAY_*`; raise SettingsError that lists every unknown, ill-typed or contradicting variable."""
        known = set(cls.__struct_fields__)
        given = {k.removeprefix(PREFIX).lower(): v for k, v in env.items() if k.startswith(PREFIX)}
        values, wrong = {}, []
        for name, text in given.items():
            if name in NOT_SETTINGS:
                continue
            if name not in known:
                wrong.append(f"{PREFIX}{name.upper()} is not a setting; remove it or correct its name")
                continue
            try:
                values[name] = msgspec.convert(text, cls.__annotations__[name], strict=False)
            except msgspec.ValidationError as error:
                wrong.append(f"{PREFIX}{name.upper()}={text!r}: {error}")
        if wrong:
            raise SettingsError("; ".join(wrong))
        if "api_public_url" in values:
            values["api_public_url"] = values["api_public_url"].rstrip("/")  # what follows it begins with one
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Raise SettingsError where a server is not named, or values contradict each other."""
        wrong = self._wrong_about_servers()
        if self.shutdown_grace_s <= self.produce_ack_deadline_s:
            wrong.append(
                "SLUICEWAY_SHUTDOWN_GRACE_S must exceed SLUICEWAY_PRODUCE_ACK_DEADLINE_S, or requests in flight are cut"
            )
        if self.stall_exit_s <= self.not_ready_after_s:
            wrong.append("SLUICEWAY_STALL_EXIT_S must exceed SLUICEWAY_NOT_READY_AFTER_S")
        if self.postgres_timeout_s >= self.stall_exit_s:
            wrong.append("SLUICEWAY_POSTGRES_TIMEOUT_S must be below SLUICEWAY_STALL_EXIT_S")
        if self.gate_stale_s <= self.idle_beat_s:
            wrong.append(
                "SLUICEWAY_GATE_STALE_S must exceed SLUICEWAY_IDLE_BEAT_S, or an idle writer's gate always stands open"
            )
        wrong += self._wrong_about_history()
        wrong += self._wrong_about_stock_source()
        if wrong:
            raise SettingsError("; ".join(wrong))

    def _wrong_about_servers(self) -> list[str]:
        wrong = []
        if not is_kafka(self.kafka_url):
            wrong.append(
                f"SLUICEWAY_KAFKA_URL={self.kafka_url!r} must be host:port, or several with commas and no spaces between; "
                "an IPv6 address has brackets, as in [::1]:9092"
            )
        if not is_postgres(self.postgres_url):
            wrong.append(
                "SLUICEWAY_POSTGRES_URL must be postgresql://user:password@host:port/database, "
                f"or postgresql:///database?host=/folder for a socket; {_PARTS_OF_A_URL}"
            )
        if not is_redis(self.redis_url):
            wrong.append(
                "SLUICEWAY_REDIS_URL must be redis://user:password@host:port/db, rediss:// for TLS, "
                f"or unix:///path for a socket; {_PARTS_OF_A_URL}"
            )
        return wrong

    def _wrong_about_history(self) -> list[str]:
        wrong = []
        if 0 < self.retention_days <= LOG_DAYS:
            wrong.append(
                f"SLUICEWAY_RETENTION_DAYS must be 0 or more than {LOG_DAYS}, for how long Kafka keeps what the audit compares"
            )
        if self.retention_days and not self.archive_dir:
            wrong.append(
                "SLUICEWAY_ARCHIVE_DIR must name a folder if SLUICEWAY_RETENTION_DAYS is set: what is dropped is kept there"
            )
        return wrong

    def _wrong_about_stock_source(self) -> list[str]:
        wrong = []
        if self.stock_source_url and not is_http(self.stock_source_url):
            wrong.append(
                "SLUICEWAY_STOCK_SOURCE_URL must be http(s)://host, with or without a port and a path, and nothing else; "
                "a token goes into SLUICEWAY_STOCK_SOURCE_TOKEN"
            )
        if self.stock_source_deadline_s >= self.not_ready_after_s:
            wrong.append("SLUICEWAY_STOCK_SOURCE_DEADLINE_S must be below SLUICEWAY_NOT_READY_AFTER_S")
        return wrong

    def require_secrets(self) -> None:
        """Raise SettingsError unless buyers can be told apart and receipts signed."""
        wrong = []
        if not self.jwt_hs256_secret and not self.jwt_public_keys_file:
            wrong.append(
                "set SLUICEWAY_JWT_HS256_SECRET or SLUICEWAY_JWT_PUBLIC_KEYS_FILE to verify buyers' tokens"
            )
        if self.jwt_hs256_secret and len(self.jwt_hs256_secret.encode()) < 32:
            wrong.append("SLUICEWAY_JWT_HS256_SECRET must have at least 32 bytes (RFC 7518 §3.2)")
        if len(self.receipt_secret.encode()) < 32:
            wrong.append("set SLUICEWAY_RECEIPT_SECRET to at least 32 bytes, the same for ingest and api")
        if wrong:
            raise SettingsError("; ".join(wrong))

    def as_env(self) -> dict[str, str]:
        """The variables that make another process read these same settings."""
        return {PREFIX + name.upper(): str(getattr(self, name)) for name in self.__struct_fields__}


# Variables with the prefix that are about the local stack, not settings of a process.
NOT_SETTINGS = frozenset({"cache_dir", "home"})
