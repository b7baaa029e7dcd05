"""Real servers, started once when the first test needs them; settings of its own for every test."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import msgspec
import pytest
from purgatory.domain import model as breaker_model
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from contracts.settings import Settings
from deploy.stack import LocalStack, Urls
from deploy.topics import ensure_topics
from stock_ledger.schema import migrate
from tests.harness import Clock, Wall

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

TESTS = Path(__file__).parent
PARTITIONS = 4
TEMPLATE = "sluiceway_template"
_numbers = count(1)


class _Files(LoadScopeScheduling):  # type: ignore[misc]
    """Whole files to the two processes of `make test`; the simulation as one, which looks for planted bugs on every core."""

    def _split_scope(self, nodeid: str) -> str:
        path = Path(nodeid.split("::", 1)[0])
        return path.parts[1] if path.parts[1] == "simulation" else str(path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Files:
    return _Files(config, log)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """What circuits go by."""
    made = Wall()
    monkeypatch.setattr(breaker_model, "time", made)
    return made


@pytest.fixture
def turn_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Turns the event loop's clock on by so many seconds."""

    def turn(seconds: float) -> None:
        loop = asyncio.get_running_loop()
        time = loop.time
        monkeypatch.setattr(loop, "time", lambda: time() + seconds)

    return turn


@pytest.fixture
def offline_settings() -> Settings:
    """Settings for what connects to nothing."""
    return Settings(
        kafka_url="127.0.0.1:1",
        postgres_url="postgresql://postgres@127.0.0.1:1/none",
        redis_url="redis://127.0.0.1:1/0",
        partitions=PARTITIONS,
        jwt_hs256_secret="a secret of buyers' tokens, 32 bytes or more",
        receipt_secret="a secret of receipts with 32 bytes or more",
        batch_rows_max=500,
        batch_linger_ms=0.0,
        shutdown_drain_s=0.5,
        cache_timeout_s=5.0,
        produce_ack_deadline_s=5.0,
    )


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Kafka, Postgres and Valkey, as `sluiceway up` starts them."""
    own = LocalStack(tmp_path_factory.mktemp("stack"), say=lambda _: None)
    own.start()
    try:
        yield own
    finally:
        own.delete()


@pytest.fixture(scope="session")
def urls(stack: LocalStack) -> Urls:
    return stack.urls


@pytest.fixture
def server_settings(offline_settings: Settings, urls: Urls) -> Settings:
    """The servers' URLs, and names that no other test uses. Its database and topics do not exist."""
    name = f"t{os.getpid()}x{next(_numbers)}"
    return msgspec.structs.replace(
        offline_settings,
        kafka_url=urls.kafka,
        postgres_url=_database(urls.postgres, name),
        redis_url=urls.redis,
        topic_prefix=name,
        consumer_group=f"{name}-writers",
        cache_prefix=f"{name}:",
    )


@pytest.fixture(scope="session")
def migrated() -> set[str]:
    """URLs of servers that have the template. The migration itself needs the loop of a test."""
    return set()


@pytest.fixture
async def database_settings(
    server_settings: Settings, urls: Urls, migrated: set[str]
) -> AsyncIterator[Settings]:
    """With a database of its own, cloned from one that was migrated."""
    name = urlsplit(server_settings.postgres_url).path[1:]
    if urls.postgres not in migrated:
        await execute(urls.postgres, f"CREATE DATABASE {TEMPLATE}")
        await migrate(_database(urls.postgres, TEMPLATE))
        migrated.add(urls.postgres)
    await execute(urls.postgres, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield server_settings
    await execute(urls.postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def topic_settings(server_settings: Settings) -> Settings:
    """With topics of its own."""
    await ensure_topics(server_settings)
    return server_settings


@pytest.fixture
async def settings(database_settings: Settings, topic_settings: Settings) -> Settings:
    """With a database and topics of its own: all that a process of Sluiceway needs."""
    assert database_settings is topic_settings
    return database_settings


def _database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def examples() -> Path:
    """The folder of example messages."""
    return Path(__file__).parent.parent / "contracts" / "examples"
