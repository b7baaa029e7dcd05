"""`sluiceway up`: everything, until it is told to stop."""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import aiohttp
import msgspec
from rich.console import Console

from contracts.settings import PREFIX, Settings
from deploy import sample
from deploy.local import SETTINGS_FILE, keep_settings, kept_variables, prepare, running, token, with_api
from deploy.stack import LocalStack, StackError, ports

_BUYERS = 100
_HOT_STOCK = 5000
_PRODUCTS = 200
_TOKEN_TTL_S = 12 * 3600
_POLL_S = 0.2
_RETRY_S = 5.0


def as_before(data_dir: Path, settings: Settings) -> Settings:
    """The same secrets and, while they are free, ports as the last time: tokens, receipts and URLs stay good."""
    before = kept_variables(data_dir / SETTINGS_FILE)
    chosen = ports.choose(data_dir / "ports.json", ("ingest", "api"))
    return msgspec.structs.replace(
        settings,
        ingest_port=settings.ingest_port or chosen["ingest"],
        api_port=settings.api_port or chosen["api"],
        **{
            name: os.environ.get(variable) or before.get(variable) or getattr(settings, name)
            for name in ("jwt_hs256_secret", "receipt_secret", "sandbox_secrets")
            for variable in [PREFIX + name.upper()]
        },
    )


async def stay_up(
    stack: LocalStack, settings: Settings, data_dir: Path, workers: int, console: Console
) -> None:
    """Prepare, start the processes, tell how to use them, wait until cancelled."""
    await prepare(
        settings, sample.products(_PRODUCTS, _HOT_STOCK), sample.addresses(_BUYERS), unless_any=True
    )
    async with running(stack, settings, data_dir / "logs", workers=workers, say=console.print) as fleet:
        ingest, api = fleet.of("ingest")[0], fleet.of("api")[0]
        kept = with_api(ingest.settings, api.url)
        keep_settings(data_dir / SETTINGS_FILE, kept)
        await _check(ingest.url)
        console.print(
            f"""
Sluiceway is up.
  checkouts  {ingest.url}/v1/checkouts
  orders     {api.url}/v1/orders
  reference  {api.url}/docs  (OpenAPI: {api.url}/openapi.json)
  Kafka      {settings.kafka_url}
  Postgres   {settings.postgres_url}
  cache      {settings.redis_url}
  settings   {data_dir / SETTINGS_FILE}

Try it, in another terminal (buyers buyer-00001 to buyer-{_BUYERS:05d} have the address "home"):
""",
            highlight=False,
        )
        # Printed as it is: it must survive being copied.
        console.out(
            f"curl -i -X POST {ingest.url}/v1/checkouts -H 'Content-Type: application/json' "
            f"-H 'Authorization: Bearer {token(kept, sample.buyer_id(1), _TOKEN_TTL_S)}' "
            "-H 'Idempotency-Key: my-first-order' "
            f"""-d '{{"items":[{{"product_id":"{sample.HOT_PRODUCT}","quantity":1}}],"address_id":"home"}}'""",
            highlight=False,
        )
        console.print(
            "\nThen GET its Location with the same Authorization. Ctrl-C stops everything.", highlight=False
        )
        await _watch(stack, partial(console.print, highlight=False, markup=False))


async def _watch(stack: LocalStack, say: Callable[[str], None]) -> None:
    """Start servers again that ended, as the fleet does with its processes, until cancelled."""
    while True:
        for server in stack.ended():
            say(f"{server.name} ended; starting it again (log: {server.log_path})")
            try:
                await asyncio.to_thread(server.restart)
                say(f"{server.name} runs again")
            except StackError as error:
                say(str(error))
                await asyncio.sleep(_RETRY_S)
        await asyncio.sleep(_POLL_S)


async def _check(url: str) -> None:
    """What is printed works: the document that describes it is served."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/openapi.json") as response:
        response.raise_for_status()
