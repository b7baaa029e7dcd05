"""Settings: read as a whole, wrong as a whole."""

import msgspec
import pytest

from contracts.errors import SettingsError
from contracts.settings import NOT_SETTINGS, PREFIX, Settings


def env(**values: str) -> dict[str, str]:
    return {PREFIX + name.upper(): value for name, value in values.items()}


def test_the_defaults_fit_together() -> None:
    assert Settings.from_env({}) == Settings()


def test_what_is_given_is_read() -> None:
    settings = Settings.from_env(
        env(partitions="32", produce_linger_ms="0.5", kafka_url="a:1,b:2")
        | {"PATH": "/bin", "OTHER_SETTING": "x"}
    )
    assert (settings.partitions, settings.produce_linger_ms, settings.kafka_url) == (32, 0.5, "a:1,b:2")


def test_a_slash_behind_the_public_url_counts_for_nothing() -> None:
    for url in ("https://shop.example", "https://shop.example/"):
        assert Settings.from_env(env(api_public_url=url)).api_public_url == "https://shop.example"


def test_another_process_reads_the_same(offline_settings: Settings) -> None:
    assert Settings.from_env(offline_settings.as_env()) == offline_settings
    assert Settings.from_env(Settings().as_env()) == Settings()


def test_every_wrong_variable_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(env(partitons="4", partitions="many", host="x", stock="1"))
    message = str(caught.value)
    for name in ("SLUICEWAY_PARTITONS", "SLUICEWAY_PARTITIONS", "SLUICEWAY_STOCK"):
        assert name in message
    assert "SLUICEWAY_HOST" not in message


@pytest.mark.parametrize("name", sorted(NOT_SETTINGS))
def test_variables_of_the_local_stack_are_left_alone(name: str) -> None:
    assert Settings.from_env(env(**{name: "/somewhere"})) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partitions", "0"),
        ("partitions", "4097"),
        ("partitions", "1.5"),
        ("partitions", ""),
        ("ingest_port", "65536"),
        ("ingest_port", "-1"),
        ("idle_beat_s", "0"),
        ("idle_beat_s", "-1"),
        ("idle_beat_s", "nan"),
        ("batch_rows_max", "0"),
        ("replication_factor", "ten"),
        ("produce_linger_ms", "1001"),
        ("log_level", "odd"),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"SLUICEWAY_{name.upper()}="):
        Settings.from_env(env(**{name: value}))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"shutdown_grace_s": "5", "produce_ack_deadline_s": "5"}, "shutdown_grace_s"),
        ({"stall_exit_s": "20", "not_ready_after_s": "20"}, "stall_exit_s"),
        ({"stall_exit_s": "30", "postgres_timeout_s": "30"}, "postgres_timeout_s"),
        ({"gate_stale_s": "1", "idle_beat_s": "1"}, "gate_stale_s"),
        ({"stock_source_url": "warehouse:80"}, "stock_source_url"),
        ({"stock_source_deadline_s": "5", "not_ready_after_s": "5"}, "stock_source_deadline_s"),
    ],
)
def test_values_that_contradict_each_other_are_named(values: dict[str, str], named: str) -> None:
    """As the variables that they are."""
    with pytest.raises(SettingsError, match=PREFIX + named.upper()):
        Settings.from_env(env(**values))


@pytest.mark.parametrize(
    "values",
    [
        {"shutdown_grace_s": "5.1", "produce_ack_deadline_s": "5"},
        {"stall_exit_s": "20.1", "not_ready_after_s": "20"},
        {"stall_exit_s": "30.1", "postgres_timeout_s": "30"},
        {"gate_stale_s": "1.1", "idle_beat_s": "1"},
        {"stock_source_url": "http://warehouse"},
        {"stock_source_deadline_s": "5", "not_ready_after_s": "5.1"},
    ],
)
def test_values_that_just_fit(values: dict[str, str]) -> None:
    settings = Settings.from_env(env(**values))
    assert {name: str(getattr(settings, name)) for name in values} == {
        name: str(msgspec.convert(value, type(getattr(settings, name)), strict=False))
        for name, value in values.items()
    }


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("kafka_url", ""),
        ("kafka_url", "h:abc"),
        ("kafka_url", "h:0"),
        ("kafka_url", "h:65536"),
        ("kafka_url", "h:-1"),
        ("kafka_url", "h:"),
        ("kafka_url", "h:1,"),
        ("kafka_url", "h:1, g:1"),
        ("kafka_url", "h h:1"),
        ("kafka_url", "h:1\n"),
        ("kafka_url", "::1"),
        ("kafka_url", "[::1"),
        ("kafka_url", "[::1]9"),
        ("kafka_url", "kafka://h:1"),
        ("postgres_url", ""),
        ("postgres_url", "h:5432/db"),
        ("postgres_url", "mysql://h/db"),
        ("postgres_url", " postgresql://h/db"),
        ("postgres_url", "postgresql://h/db "),
        ("postgres_url", "postgresql://h h/db"),
        ("postgres_url", "postgresql://h:abc/db"),
        ("postgres_url", "postgresql://h:65536/db"),
        ("postgres_url", "postgresql://h:/db"),
        ("postgres_url", "postgresql://h,,g/db"),
        ("postgres_url", "postgresql://::1/db"),
        ("postgres_url", "postgresql://[::1/db"),
        ("postgres_url", "postgresql://u:secret@secret@h/db"),
        ("postgres_url", "postgresql://u:secret/secret@h/db"),
        ("postgres_url", "postgresql://u:secret#secret@h/db"),
        ("postgres_url", "postgresql:///db?host=h:abc"),
        ("postgres_url", "postgresql:///db?host=h&port=abc"),
        ("postgres_url", "postgresql:///db?host"),
        ("redis_url", ""),
        ("redis_url", "h:6379"),
        ("redis_url", "http://h"),
        ("redis_url", " redis://h"),
        ("redis_url", "redis:// h"),
        ("redis_url", "redis://h "),
        ("redis_url", "redis://h:abc"),
        ("redis_url", "redis://h:65536"),
        ("redis_url", "redis://[::1"),
        ("redis_url", "redis://::1"),
        ("redis_url", "redis://:secret#secret@h"),
        ("redis_url", "redis://h/db"),
        ("redis_url", "unix://"),
        ("stock_source_url", "h:80"),
        ("stock_source_url", "ftp://h"),
        ("stock_source_url", "http://"),
        ("stock_source_url", "http:///path"),
        ("stock_source_url", "http://h:abc"),
        ("stock_source_url", "http://h:65536"),
        ("stock_source_url", "http://[::1"),
        ("stock_source_url", "http://h "),
        ("stock_source_url", "http://h/p q"),
        ("stock_source_url", "http://u:secret@h"),
        ("stock_source_url", "http://h/?token=secret"),
        ("stock_source_url", "http://h/#secret"),
        ("stock_source_url", "http://h?"),
        ("stock_source_url", "http://h/p#"),
    ],
)
def test_a_server_that_no_client_could_find_is_told_by_its_variable(name: str, url: str) -> None:
    with pytest.raises(SettingsError, match=f"SLUICEWAY_{name.upper()}.* must be") as caught:
        Settings.from_env(env(**{name: url}))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("kafka_url", "h"),
        ("kafka_url", "h:1,10.0.0.1:65535,[::1]:9092,[fe80::1%eth0]"),
        ("postgres_url", "postgres://h/db"),
        ("postgres_url", "postgresql://"),
        ("postgres_url", "postgresql://u:p%40%2F@[::1]:5432/db?sslmode=require"),
        ("postgres_url", "postgresql://u@h:1,[::1]:2,g/db?target_session_attrs=any"),
        ("postgres_url", "postgresql:///db?host=/run/postgres&port=5433"),
        ("postgres_url", "postgresql://u@/db?host=h:1,/run/postgres"),
        ("postgres_url", "postgresql://%2Frun%2Fpostgres/db"),
        ("redis_url", "redis://"),
        ("redis_url", "redis://h:1/0?socket_timeout=1"),
        ("redis_url", "rediss://u:p@[::1]:6379"),
        ("redis_url", "unix:///run/redis.sock?db=1"),
        ("stock_source_url", ""),
        ("stock_source_url", "http://h"),
        ("stock_source_url", "HTTPS://warehouse.example:8443/stock/"),
        ("stock_source_url", "http://[::1]:8080"),
    ],
)
def test_servers_are_named_in_all_ways_that_clients_know(name: str, url: str) -> None:
    assert getattr(Settings.from_env(env(**{name: url})), name) == url


def test_secrets_are_required_by_those_who_need_them(offline_settings: Settings) -> None:
    offline_settings.require_secrets()
    with pytest.raises(SettingsError) as caught:
        Settings().require_secrets()
    for name in ("JWT_HS256_SECRET", "JWT_PUBLIC_KEYS_FILE", "RECEIPT_SECRET"):
        assert f"SLUICEWAY_{name}" in str(caught.value)


@pytest.mark.parametrize("name", ["jwt_hs256_secret", "receipt_secret"])
def test_secrets_have_32_bytes(offline_settings: Settings, name: str) -> None:
    msgspec.structs.replace(offline_settings, **{name: "x" * 32}).require_secrets()
    msgspec.structs.replace(offline_settings, **{name: "夜" * 11}).require_secrets()
    with pytest.raises(SettingsError, match=f"SLUICEWAY_{name.upper()}"):
        msgspec.structs.replace(offline_settings, **{name: "x" * 31}).require_secrets()


def test_keys_in_a_file_stand_for_the_shared_secret(offline_settings: Settings) -> None:
    msgspec.structs.replace(
        offline_settings, jwt_hs256_secret="", jwt_public_keys_file="keys.pem"
    ).require_secrets()
