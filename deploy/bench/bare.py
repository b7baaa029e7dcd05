"""The bare endpoint that accepting is measured beside: the same server and settings, reads the body, answers 202."""

import asyncio
import os

from contracts.http import JSON, Exchange, Scope
from contracts.settings import Settings
from deploy import processes
from deploy.serving import Interface, serve

# As long as an accepted checkout's answer.
BODY = b'{"checkout_id":"' + b"0" * 420 + b'"}'


async def bare(_: Scope, exchange: Exchange) -> None:
    await exchange()
    exchange.response_bytes(202, [JSON], BODY)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    await serve(bare, Interface.RSGI, settings.ingest_port, settings, stop)


if __name__ == "__main__":
    processes.run(run, Settings.from_env(os.environ))
