"""Every process restarted while checkouts come in: nobody is cut off, nothing that was accepted is lost."""

import asyncio
from pathlib import Path

import msgspec

from contracts.settings import Settings
from deploy import audit, sample
from deploy.bench.checkouts import requests
from deploy.local import local_settings, prepare, running, with_api
from deploy.overload.load import Load, Plan
from deploy.stack import LocalStack
from stock_ledger.pool import connect_pool


async def test_restarts_one_by_one_cut_nobody_off(
    settings: Settings, stack: LocalStack, tmp_path: Path
) -> None:
    own = msgspec.structs.replace(local_settings(stack, settings), postgres_url=settings.postgres_url)
    await prepare(own, sample.products(50, 10**6), sample.addresses(200))
    said: list[str] = []
    async with running(stack, own, tmp_path / "logs", workers=2, say=said.append) as fleet:
        fleet.add("ingest", with_api(own, fleet.of("api")[0].url))
        await fleet.wait_ready()
        ports = [member.port for member in fleet.of("ingest")]
        accepted = tmp_path / "accepted.txt"
        load = Load(Plan(own.host, ports, requests(own, buyers=200), 16, 100.0, 120.0, str(accepted)))
        loading = asyncio.create_task(load.run())
        for pair in zip(fleet.of("ingest"), fleet.of("worker"), strict=True):
            await asyncio.gather(*(asyncio.to_thread(fleet.restart, member) for member in pair))
            await fleet.wait_ready()
        load.stop()
        outcome = await loading
        report = await audit.run(own)
    assert said == [], "every process ended by itself, in time"
    assert report.ok, report.to_json().decode()
    assert outcome.statuses == {"202": outcome.due}
    assert (outcome.cut, outcome.unanswered, outcome.given_up) == (0, 0, 0)
    assert outcome.told_to_close >= 2, "both servers sent their clients away"
    told = {tuple(line.split()) for line in accepted.read_text().splitlines()}
    assert len(told) == outcome.due
    pool = await connect_pool(settings)
    rows = await pool.fetch('SELECT checkout_id, partition, "offset" FROM decisions')
    await pool.close()
    assert told == {tuple(map(str, row)) for row in rows}
