"""The catalogue as a file, by the same functions as over HTTP, from the command line."""

import asyncio
import contextlib
import uuid
from pathlib import Path

import msgspec

from api import catalogue
from api.catalogue_files import exported, together
from api.desk import is_same
from api.publisher import KafkaCommands
from contracts.asks import ProductLine
from contracts.commands import PutProduct
from contracts.errors import Invalid
from contracts.kafka_clients import start_producer
from contracts.outcomes import Outcome, Refusal
from contracts.problems import Problem
from contracts.settings import Settings
from deploy.processes import now_ms
from stock_ledger.commands.reads import CommandReads, PostgresCommandReads
from stock_ledger.pool import connect_pool

ACTOR = "merchant:cli"
_FORMATS: dict[str, catalogue.Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
_COMMANDS = uuid.UUID("d9e0d0a4-6a57-5b4e-9a3e-5f5c2a1f7b60")
_ASK_EVERY_S = 0.1


class Done(msgspec.Struct):
    """What became of the products of a file. `refused` says which, and why; `waiting` are not decided yet."""

    applied: int = 0
    refused: list[str] = msgspec.field(default_factory=list)
    waiting: int = 0


def format_of(file: Path) -> catalogue.Format:
    """By the end of the name. Raises Invalid."""
    kind = _FORMATS.get(file.suffix.lower())
    if kind is None:
        raise Invalid(f"{file}: the name must end in {', '.join(_FORMATS)}")
    return kind


def read(file: Path, lines_max: int) -> list[ProductLine]:
    """The products of a file. Raises Invalid with what is wrong in which line."""
    kind = format_of(file)
    try:
        return catalogue.read(file.read_bytes(), kind, lines_max)
    except OSError as error:
        raise Invalid(f"{file}: {error}") from error
    except Problem as problem:
        told = [
            f"line {e['line']}{', ' + str(e['field']) if 'field' in e else ''}: {e['detail']}"
            for e in problem.errors or []
        ]
        raise Invalid("\n".join([f"{file}: {problem.detail}", *told])) from problem


async def take_in(settings: Settings, file: Path, key: str, wait_s: float) -> Done:
    """Put the products of a file into the catalogue, and wait up to `wait_s` until all are decided.

    Raises Invalid for a file that is wrong, NotAcknowledged if Kafka does not answer: then some may be taken in.
    """
    lines = read(file, settings.import_lines_max)
    key = key or uuid.uuid4().hex
    commands = [_command(line, key) for line in lines]
    publisher = KafkaCommands(lambda: start_producer(settings, "sluiceway-catalogue"), settings)
    pool = await connect_pool(settings)
    try:
        for some in together(commands):
            await asyncio.gather(*(publisher.publish(command) for command in some))
        return await _decided(PostgresCommandReads(pool), commands, wait_s)
    finally:
        await publisher.stop()
        await pool.close()


async def give_out(settings: Settings, kind: catalogue.Format) -> bytes:
    """All products as a file."""
    pool = await connect_pool(settings)
    try:
        return await exported(PostgresCommandReads(pool), kind)
    finally:
        await pool.close()


def _command(line: ProductLine, key: str) -> PutProduct:
    command_id = str(uuid.uuid5(_COMMANDS, f"{line.product_id}\0{key}"))
    base = {"command_id": command_id, "actor": ACTOR, "asked_at_ms": now_ms()}
    return catalogue.command_of(line, base)


async def _decided(reads: CommandReads, commands: list[PutProduct], wait_s: float) -> Done:
    done = Done(waiting=len(commands))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            for command in commands:
                while (found := await reads.command(command.command_id)) is None:  # noqa: ASYNC110 - Postgres cannot tell
                    await asyncio.sleep(_ASK_EVERY_S)
                done.waiting -= 1
                if not is_same(found, command):
                    done.refused.append(f"{command.product_id}: {Refusal.IDEMPOTENCY_CONFLICT.value}")
                elif found.outcome == Outcome.APPLIED:
                    done.applied += 1
                else:
                    done.refused.append(f"{command.product_id}: {found.reason}")
    return done
