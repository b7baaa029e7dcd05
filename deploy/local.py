"""A whole local deployment: servers, schema, topics, catalogue and processes."""

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import jwt
import msgspec

from contracts.auth import BUYER_ID
from contracts.errors import Invalid, SettingsError
from contracts.settings import PREFIX, Settings
from deploy.fleet import Fleet
from deploy.stack import LocalStack, StackError
from deploy.topics import ensure_topics
from stock_ledger.catalogue import AddressEntry, ProductEntry, has_any, store
from stock_ledger.pool import connect_pool
from stock_ledger.redis_view import RedisView, connect_redis
from stock_ledger.schema import migrate

Say = Callable[[str], None]

SETTINGS_FILE = "settings.env"
_RUNS_KEPT = 2
_KEPT = "kept.txt"


def home() -> Path:
    """Where local data lives: SLUICEWAY_HOME, else .sluiceway in the current folder."""
    return Path(os.environ.get(f"{PREFIX}HOME") or ".sluiceway").absolute()


def new_run_dir(kind: str, say: Say) -> Path:
    """A fresh folder for one run; of earlier runs of this kind the newest two are kept, and those that are to be `kept`.

    Raises StackError if it cannot be made.
    """
    runs = home() / kind
    earlier = [run for run in sorted(runs.glob("2*")) if not (run / _KEPT).exists()]
    for old in earlier[:-_RUNS_KEPT]:
        try:
            LocalStack(old, say=say).delete()
            shutil.rmtree(old)
        except (StackError, OSError) as error:
            say(f"an earlier run's data is left in {old}: {error}")
    path = runs / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise StackError(
            f"no folder can be made for this run; set {PREFIX}HOME to another one: {error}"
        ) from error
    return path


def keep_run_dir(data_dir: Path, why: str) -> None:
    """Have later runs leave the folder of this one alone."""
    (data_dir / _KEPT).write_text(f"{why}\n")


@contextlib.contextmanager
def telling_where(data_dir: Path, say: Say) -> Iterator[None]:
    """Say at the end, however it comes, where data and logs are."""
    try:
        yield
    finally:
        say(f"Data and logs are in {data_dir}")


def given_settings(kept: Path | None = None) -> Settings:
    """Settings from the environment, over those kept in a file if there is one."""
    variables = {} if kept is None else kept_variables(kept)
    variables |= {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    return Settings.from_env(variables)


def new_stack(data_dir: Path, say: Say) -> LocalStack:
    """A local stack in `data_dir`; a server whose URL is configured in the environment is not started."""
    return LocalStack(
        data_dir,
        kafka_url=os.environ.get(f"{PREFIX}KAFKA_URL", ""),
        postgres_url=os.environ.get(f"{PREFIX}POSTGRES_URL", ""),
        redis_url=os.environ.get(f"{PREFIX}REDIS_URL", ""),
        say=say,
    )


def local_settings(stack: LocalStack, given: Settings) -> Settings:
    """The settings of a local deployment: the stack's servers; free ports and own secrets where none are given."""
    urls = stack.urls
    return msgspec.structs.replace(
        given,
        kafka_url=urls.kafka,
        postgres_url=urls.postgres,
        redis_url=urls.redis,
        ingest_port=given.ingest_port if f"{PREFIX}INGEST_PORT" in os.environ else 0,
        api_port=given.api_port if f"{PREFIX}API_PORT" in os.environ else 0,
        jwt_hs256_secret=given.jwt_hs256_secret or secrets.token_hex(32),
        receipt_secret=given.receipt_secret or secrets.token_hex(32),
        sandbox_secrets=given.sandbox_secrets or secrets.token_hex(32),
    )


async def prepare(
    settings: Settings,
    products: Sequence[ProductEntry],
    addresses: Sequence[AddressEntry],
    *,
    unless_any: bool = False,
) -> None:
    """Schema, topics and catalogue; repeating it changes nothing that is in place. With `unless_any` the catalogue is left
    as it is where there is one.
    """
    await migrate(settings.postgres_url)
    await ensure_topics(settings)
    pool = await connect_pool(settings)
    redis = connect_redis(settings)
    try:
        if not (unless_any and await has_any(pool)):
            await store(pool, products, addresses, settings.partitions)
            await RedisView(redis, settings).drop()
    finally:
        await pool.close()
        await redis.aclose()


@contextlib.asynccontextmanager
async def running(
    stack: LocalStack,
    settings: Settings,
    log_dir: Path,
    *,
    workers: int,
    ingests: int = 1,
    apis: int = 1,
    say: Say,
) -> AsyncIterator[Fleet]:
    """Processes of every kind, ready; stopped in order at the end. Configured ports are those of the first."""
    fleet = Fleet(stack, log_dir, say)
    try:
        for port in [settings.api_port, *(apis - 1) * [0]]:
            fleet.add("api", settings, port)
        for port in [settings.ingest_port, *(ingests - 1) * [0]]:
            fleet.add("ingest", with_api(settings, fleet.of("api")[0].url), port)
        for _ in range(workers):
            fleet.add("worker", settings)
        fleet.add("streams", settings)
        await fleet.wait_ready()
        watching = asyncio.create_task(fleet.watch())
        try:
            yield fleet
        finally:
            watching.cancel()
    finally:
        fleet.stop()


def with_api(settings: Settings, api_url: str) -> Settings:
    return msgspec.structs.replace(settings, api_public_url=settings.api_public_url or api_url)


def token(settings: Settings, buyer_id: str, ttl_s: int, scope: str = "") -> str:
    """A buyer's token for trying, signed with the HS256 secret. Raises SettingsError if there is none, Invalid for an id
    that no process would take.
    """
    if not BUYER_ID.match(buyer_id):
        raise Invalid("a buyer's id is 1-64 characters of A-Z a-z 0-9 _ -")
    if not settings.jwt_hs256_secret:
        raise SettingsError(
            "SLUICEWAY_JWT_HS256_SECRET is not set: tokens for RS256 or ES256 are your issuer's to make"
        )
    claims: dict[str, object] = {"sub": buyer_id, "exp": int(time.time()) + ttl_s}
    if scope:
        claims["scope"] = scope
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    return jwt.encode(claims, settings.jwt_hs256_secret, "HS256")


def keep_settings(path: Path, settings: Settings) -> None:
    """Write the settings as an environment file, readable by its owner only."""
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.as_env().items()))


def kept_variables(path: Path) -> dict[str, str]:
    """The variables of an environment file; none if it is not there. Raises SettingsError if it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    return dict(line.split("=", 1) for line in lines if "=" in line)
