"""The command line: `sluiceway`."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import orjson
import typer
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contracts.errors import Invalid, SluicewayError
from contracts.settings import PREFIX, Settings
from deploy.stack import StackError

app = typer.Typer(
    help="Sluiceway: a flash-sale order pipeline. Settings are SLUICEWAY_* variables; see docs/reference/settings.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

T = TypeVar("T")
UsageError: type[Any] = typer.BadParameter.mro()[
    1
]  # what is wrong with a command line; typer names it nowhere

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")]


# --- the processes of a deployment -------------------------------------------------------------------------------


@app.command()
def ingest() -> None:
    """Run an ingest process: takes checkouts in over HTTP and writes them to Kafka."""
    from deploy import processes

    processes.run(processes.ingest, Settings.from_env(os.environ))


@app.command()
def api() -> None:
    """Run an api process: answers polls and shows orders."""
    from deploy import processes

    processes.run(processes.api, Settings.from_env(os.environ))


@app.command()
def worker() -> None:
    """Run a worker: decides the partitions that the group assigns to it."""
    from deploy import processes

    processes.run(processes.worker, Settings.from_env(os.environ))


@app.command()
def streams() -> None:
    """Run the Faust application: live sale figures."""
    from deploy import processes

    processes.run(processes.streams, Settings.from_env(os.environ))


# --- the local deployment ----------------------------------------------------------------------------------------


@app.command()
def demo(
    checkouts: Annotated[int, typer.Option(min=1, help="Checkouts to submit.")] = 20_000,
    buyers: Annotated[int, typer.Option(min=1, max=99_999, help="Different buyers.")] = 5_000,
    products: Annotated[int, typer.Option(min=1, max=9_999, help="Products beside the hot one.")] = 200,
    stock: Annotated[int, typer.Option(min=0, help="Units of the hot product.")] = 5_000,
    workers: Workers = 2,
    seed: Annotated[int, typer.Option(help="The same seed makes the same sale.")] = 1,
    json: JsonFile = None,
) -> None:
    """Run a whole sale on local servers, with real buyers over HTTP, and audit it."""
    from deploy import local
    from deploy.demo import report
    from deploy.demo.run import Options, sell

    data_dir = local.new_run_dir("demo", console.print)
    options = Options(checkouts, buyers, products, stock, workers, seed)
    with local.telling_where(data_dir, errors.print), local.new_stack(data_dir, console.print) as stack:
        settings = local.local_settings(stack, local.given_settings())
        result, audited = _run(sell(stack, settings, options, data_dir / "logs", console))
    _render_audit(audited)
    report.render(console, result)
    if json is not None:
        json.write_bytes(orjson.dumps(msgspec.structs.asdict(result), option=orjson.OPT_INDENT_2))
    raise typer.Exit(0 if result.ok else 1)


@app.command()
def up(workers: Workers = 2) -> None:
    """Start everything on local servers with the sample catalogue, and stay up until Ctrl-C."""
    from deploy import local
    from deploy.up import as_before, stay_up

    data_dir = local.home() / "up"
    with local.telling_where(data_dir, errors.print), local.new_stack(data_dir, console.print) as stack:
        settings = as_before(data_dir, local.local_settings(stack, local.given_settings()))
        _run(stay_up(stack, settings, data_dir, workers, console))


# --- operators' commands -----------------------------------------------------------------------------------------


@app.command()
def migrate() -> None:
    """Bring the Postgres schema to the newest revision."""
    from stock_ledger import schema

    before, after = _run(schema.migrate(_settings().postgres_url))
    console.print(
        f"schema: {before or 'empty'} -> {after}" if before != after else f"schema: {after}, nothing to do"
    )


@app.command()
def topics() -> None:
    """Create the topics that are missing and check the partition counts."""
    from deploy.topics import ensure_topics

    made = _run(ensure_topics(_settings()))
    console.print(f"made {', '.join(made)}" if made else "all topics are there")


@app.command()
def catalogue(
    products: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Products, a JSON object a line.")
    ],
    addresses: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Addresses, a JSON object a line.")
    ] = None,
) -> None:
    """Store products and addresses from files; stock is opened for products that are new."""
    from deploy.local import prepare
    from stock_ledger.catalogue import read_addresses, read_products

    p = read_products(products.read_bytes())
    a = read_addresses(addresses.read_bytes()) if addresses is not None else []
    _run(prepare(_settings(), p, a))
    console.print(f"stored {len(p)} products and {len(a)} addresses")


@app.command()
def audit(
    json: JsonFile = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Have the cache rebuilt from Postgres where it deviates.")
    ] = False,
) -> None:
    """Prove from outside that nothing was lost, doubled or oversold. Exit code 1 if anything deviates."""
    from deploy.audit import run
    from deploy.repair import repair as repair_view

    if not repair:
        report = _run(run(_settings()))
        _render_audit(report)
        result = report.to_json()
    else:
        repaired = _run(repair_view(_settings()))
        _render_audit(repaired.before)
        for done in repaired.done or ["nothing to repair in the cache"]:
            console.print(f"repair: {done}", highlight=False, markup=False)
        report = repaired.after
        if repaired.done:
            _render_audit(report)
        result = repaired.to_json()
    if json is not None:
        json.write_bytes(result)
    raise typer.Exit(0 if report.ok else 1)


deadletters = typer.Typer(
    help="What could not be decided and was set aside: list it, show it, put it through again.",
    no_args_is_help=True,
)
app.add_typer(deadletters, name="deadletters")
Place = Annotated[
    str, typer.Argument(metavar="PARTITION:OFFSET", help="Where it lay in the checkouts topic.")
]


@deadletters.command(name="list")
def list_dead_letters() -> None:
    """List what was set aside, where it lay and why."""
    from deploy.deadletters import letters

    found = _run(letters(_settings()))
    table = Table("place", "why it was set aside", "bytes", "today")
    for letter in found:
        today = escape(letter.still) if letter.still else "[green]can be replayed[/]"
        table.add_row(letter.where, escape(letter.reason), f"{len(letter.value):,}", today)
    console.print(table if found else "no dead letters")


@deadletters.command()
def show(place: Place) -> None:
    """Show one: its key and value as they were."""
    letter = _dead_letter(_settings(), place)
    console.print(f"{letter.where} {letter.reason}", markup=False, highlight=False)
    if letter.truncated_to is not None:
        console.print(f"cut to {letter.truncated_to} bytes", highlight=False)
    console.print(f"key   {letter.key!r}", markup=False, highlight=False)
    sys.stdout.buffer.write(letter.value + b"\n")


@deadletters.command()
def replay(
    place: Annotated[str | None, typer.Argument(metavar="PARTITION:OFFSET", help="Which one.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that can be decided today.")] = False,
    value: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its content, mended.")
    ] = None,
) -> None:
    """Put dead letters into the checkouts topic again. Replaying twice decides once."""
    from deploy.deadletters import letters
    from deploy.deadletters import replay as send_again

    if (place is None) != everything or (everything and value is not None):
        raise typer.BadParameter("name one place, with --value if need be, or say --all")
    settings = _settings()
    if place is None:
        chosen = [
            letter for letter in _run(letters(settings)) if not letter.still and not letter.truncated_to
        ]
    else:
        chosen = [_dead_letter(settings, place)]
    places = _run(send_again(settings, chosen, value.read_bytes() if value is not None else None))
    for letter, (partition, offset) in zip(chosen, places, strict=True):
        console.print(
            f"{letter.where} is again in the log, at {partition}:{offset}",
            highlight=False,
        )
    if not chosen:
        console.print("none can be decided today; mend one and replay it with --value")


def _dead_letter(settings: Settings, place: str) -> Any:
    from deploy.deadletters import letters

    for letter in _run(letters(settings)):
        if letter.where == place:
            return letter
    raise Invalid(f"no dead letter is of {place}; `sluiceway deadletters list` shows which there are")


@app.command()
def token(
    buyer: Annotated[str, typer.Argument(help="The buyer's id.")] = "buyer-00001",
    hours: Annotated[float, typer.Option(min=0.01, help="How long it is valid.")] = 12.0,
) -> None:
    """Print a buyer's bearer token, for trying."""
    from deploy import local

    typer.echo(local.token(_settings(), buyer, int(hours * 3600)))


@app.command()
def doctor() -> None:
    """Tell what is reachable, which versions, what is misconfigured and how to mend it."""
    from deploy.doctor import examine

    raise typer.Exit(0 if _run(examine(_settings(), console)) else 1)


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller and fewer rounds.")] = False,
    json: JsonFile = None,
) -> None:
    """Measure accepting and draining beside the alternatives, in one run on local servers."""
    from deploy import local
    from deploy.bench.measure import measure

    data_dir = local.new_run_dir("bench", console.print)
    with local.telling_where(data_dir, errors.print), local.new_stack(data_dir, console.print) as stack:
        settings = local.local_settings(stack, local.given_settings())
        result = _run(measure(stack, settings, data_dir / "logs", console, quick=quick))
    if json is not None:
        json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))


@app.command()
def overload(
    seconds: Annotated[float, typer.Option(min=5, help="How long the burst lasts.")] = 60.0,
    factor: Annotated[float, typer.Option(min=1.1, help="Times what can be sustained.")] = 3.0,
    workers: Workers = 2,
    json: JsonFile = None,
) -> None:
    """Offer more than can be sustained, restart under load, and prove that every 202 is kept. Exit code 1 if not."""
    from deploy import local
    from deploy.overload import report
    from deploy.overload.run import Options, prove

    data_dir = local.new_run_dir("overload", console.print)
    options = Options(seconds=seconds, factor=factor, workers=workers)
    with local.telling_where(data_dir, errors.print), local.new_stack(data_dir, console.print) as stack:
        settings = local.local_settings(stack, local.given_settings())
        result, audited = _run(prove(stack, settings, options, data_dir / "logs", console))
    _render_audit(audited)
    report.render(console, result)
    if json is not None:
        json.write_bytes(
            orjson.dumps(
                msgspec.structs.asdict(result), default=msgspec.to_builtins, option=orjson.OPT_INDENT_2
            )
        )
    raise typer.Exit(0 if result.ok else 1)


@app.command(name="simulate")
def simulate_seeds(
    seeds: Annotated[int, typer.Option(min=1, help="How many runs.")] = 1000,
    start: Annotated[int, typer.Option("--from", min=0, help="The first seed.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Run this one alone.")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="With --seed: tell what happens.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one per core if not given.")] = None,
) -> None:
    """Run the whole pipeline on fakes, with faults, under a seeded scheduler. Exit code 1 if a seed violates anything."""
    from deploy.simulation import report

    if seed is None and trace:
        raise typer.BadParameter("--trace tells one run: name it with --seed")
    ok = report.many(start, seeds, jobs, console) if seed is None else report.one(seed, console, trace=trace)
    raise typer.Exit(0 if ok else 1)


@app.command()
def chaos(
    duration: Annotated[float, typer.Option(min=5, help="Seconds of each sale.")] = 45.0,
    faults: Annotated[str, typer.Option(help="Kinds, separated by commas; or all.")] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Decides the sale and its faults.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="This many, with consecutive seeds.")] = 1,
    brokers: Annotated[int, typer.Option(min=1, max=9, help="Nodes of Kafka.")] = 1,
    workers: Workers = 3,
    keep: Annotated[bool, typer.Option("--keep", help="Keep data and logs also of runs that hold.")] = False,
    json: JsonFile = None,
) -> None:
    """Run sales on local servers with real faults in the middle, and hold all that buyers were told against the truth.

    Exit code 1 if anything was lost, duplicated, contradicted, out of order or never answered, or if the audit fails.
    """
    from deploy.chaos import faults as kinds
    from deploy.chaos import report, run

    results = []
    for number in range(seed, seed + runs):
        options = run.Options(duration, kinds.kinds_of(faults), number, brokers, workers)
        results.append(report.one(options, _run, console, keep=keep))
        if json is not None:
            json.write_bytes(
                orjson.dumps(msgspec.to_builtins(results, str_keys=True), option=orjson.OPT_INDENT_2)
            )
    typer.echo(report.table(results))
    raise typer.Exit(0 if all(result.ok for result in results) else 1)


def _settings() -> Settings:
    """From the environment; where that names no server, those of the local deployment that is up."""
    from deploy import local

    kept = local.home() / "up" / local.SETTINGS_FILE
    if (
        any(f"{PREFIX}{name}_URL" in os.environ for name in ("KAFKA", "POSTGRES", "REDIS"))
        or not kept.exists()
    ):
        return Settings.from_env(os.environ)
    errors.print(f"using the local deployment in {kept.parent}", style="dim")
    return local.given_settings(kept)


def _render_audit(report: Any) -> None:
    from deploy.audit import render

    render(report, console)


def _run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGTERM and SIGHUP interrupt it as Ctrl-C does, so that everything started is stopped."""

    async def interruptible() -> T:
        task = asyncio.current_task()
        if task is not None:
            for number in (signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await main

    try:
        return uvloop.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def main() -> None:
    """The entry point: errors raised on purpose become one line, not a stack trace."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    try:
        sys.exit(app(standalone_mode=False))  # gives the code of typer.Exit
    except (SluicewayError, StackError) as error:
        errors.print(f"sluiceway: {error}", style="red", highlight=False, markup=False)
        sys.exit(1)
    except UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        errors.print(f"stopped after {time.monotonic() - started:.0f} s", style="dim")
        sys.exit(130)


if __name__ == "__main__":
    main()
