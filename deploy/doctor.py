"""`sluiceway doctor`: what is reachable, which versions, what is misconfigured and how to mend it."""

import platform
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import asyncpg
import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contracts.auth import BearerVerifier
from contracts.errors import SettingsError
from contracts.settings import Settings
from contracts.topics import Topics
from stock_ledger.pool import TRANSIENT
from stock_ledger.redis_view import connect_redis
from stock_ledger.schema import newest_revision

_PACKAGES = ("aiokafka", "faust-streaming", "asyncpg", "redis", "orjson", "msgspec", "granian")
_CACHE_USED_MAX = 0.9  # of its limit


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at. `mend` says what to do when it is not `ok`."""

    what: str
    ok: bool
    found: str
    mend: str = ""


Check = Callable[[Settings], Awaitable[list[Finding]]]


async def examine(read_settings: Callable[[], Settings], console: Console) -> bool:
    """Look at everything and print it; whether all is well. Settings that no process takes are a finding, too."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    findings = [Finding("python", ok=True, found=f"{platform.python_version()}; {packages}")]
    try:
        settings = read_settings()
    except SettingsError as error:
        findings.append(Finding("settings", ok=False, found="no process can start", mend=str(error)))
    else:
        for check in (_secrets, _kafka, _postgres, _cache):
            findings += await check(settings)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]no[/]"
        table.add_row(mark, escape(finding.what), escape(finding.found))
        if not finding.ok:
            table.add_row("", "", f"[yellow]-> {escape(finding.mend)}[/]")
    console.print(table)
    return all(finding.ok for finding in findings)


async def _secrets(settings: Settings) -> list[Finding]:
    try:
        settings.require_secrets()
        BearerVerifier(settings)
    except SettingsError as error:
        return [Finding("secrets", ok=False, found="ingest and api cannot start", mend=str(error))]
    return [Finding("secrets", ok=True, found="tokens can be verified, receipts signed")]


async def _kafka(settings: Settings) -> list[Finding]:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_url.split(","), request_timeout_ms=5000)
    what = f"kafka {settings.kafka_url}"
    try:
        await admin.start()
        described = await admin.describe_topics(Topics(settings).all())
        brokers = len((await admin.describe_cluster())["brokers"])
    except (KafkaError, OSError) as error:
        return [
            Finding(what, ok=False, found=repr(error), mend="start Kafka, or correct SLUICEWAY_KAFKA_URL")
        ]
    finally:
        await admin.close()
    findings = [Finding(what, ok=True, found=f"{brokers} broker(s)")]
    for topic in described:
        count = len(topic["partitions"])
        wrong = f"missing: run `sluiceway topics`" if not count else f"set SLUICEWAY_PARTITIONS={count}"  # noqa: F541
        findings.append(
            Finding(
                f"topic {topic['topic']}",
                ok=count == settings.partitions,
                found=f"{count} partitions",
                mend=wrong,
            )
        )
    return findings


async def _postgres(settings: Settings) -> list[Finding]:
    what = "postgres"
    try:
        connection = await asyncpg.connect(settings.postgres_url, timeout=5)
    except (*TRANSIENT, asyncpg.PostgresError, ValueError) as error:
        mend = "start Postgres, or correct SLUICEWAY_POSTGRES_URL (and create its database)"
        return [Finding(what, ok=False, found=repr(error), mend=mend)]
    try:
        findings = [Finding(what, ok=True, found=str(await connection.fetchval("SHOW server_version")))]
        for name in ("fsync", "synchronous_commit"):
            value = str(await connection.fetchval("SELECT current_setting($1)", name))
            mend = f"turn {name} on: without it a crash of Postgres forgets decided orders"
            findings.append(Finding(f"postgres {name}", ok=value != "off", found=value, mend=mend))
        revision = None
        if await connection.fetchval("SELECT to_regclass('alembic_version')") is not None:
            revision = await connection.fetchval("SELECT version_num FROM alembic_version")
        newest = newest_revision()
        findings.append(
            Finding(
                "schema",
                ok=revision == newest,
                found=f"{revision or 'none'}, newest {newest}",
                mend="run `sluiceway migrate`",
            )
        )
        return findings
    finally:
        await connection.close()


async def _cache(settings: Settings) -> list[Finding]:
    what = "cache"
    try:
        async with connect_redis(settings) as redis:
            info = await redis.info()
    except (SettingsError, RedisError, OSError) as error:
        mend = "start Redis or Valkey, or correct SLUICEWAY_REDIS_URL; selling goes on without, but slower"
        return [Finding(what, ok=False, found=repr(error), mend=mend)]
    policy = str(info.get("maxmemory_policy", "noeviction"))
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))  # bytes
    name = "valkey" if "valkey_version" in info else "redis"
    speaks = str(info.get("redis_version", "0"))  # Valkey tells which Redis it can stand for
    return [
        Finding(
            what,
            ok=int(speaks.split(".", maxsplit=1)[0]) >= 7,
            found=f"{name} {info.get('valkey_version', speaks)}",
            mend="use Redis 7.0 or newer, or Valkey: idempotency needs SET with NX and GET",
        ),
        Finding(
            "cache eviction",
            ok=not policy.startswith("allkeys-"),
            found=policy,
            mend="set maxmemory-policy noeviction or volatile-*, which leave alone what has no TTL: evicted stock is read "
            "from Postgres each time, and an evicted gate stands open",
        ),
        Finding(
            "cache memory",
            ok=limit == 0 or used < _CACHE_USED_MAX * limit,
            found=f"{used >> 20:,} MB of {f'{limit >> 20:,} MB' if limit else 'no limit'}",
            mend="raise maxmemory, or lower SLUICEWAY_RESULT_TTL_S and SLUICEWAY_IDEMPOTENCY_TTL_S: a full cache takes nothing "
            "more in, and selling goes on without it, slower",
        ),
    ]
