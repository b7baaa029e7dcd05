"""Commands that measure, and that try what is guaranteed."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.console import (
    JsonFile,
    Workers,
    console,
    local_servers,
    output_file,
    render_audit,
    run,
    write_file,
    write_json,
)

commands = typer.Typer()


@commands.command()
def bench(
    suites: Annotated[
        list[str] | None, typer.Argument(metavar="[SUITE]...", help="Which; all if none is named.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Try whether everything runs; no figures.")] = False,
    json: JsonFile = None,
    table: Annotated[Path | None, output_file("--table", help="Write the table as Markdown.")] = None,
    plot: Annotated[Path | None, output_file("--plot", help="Draw the goals into this SVG file.")] = None,
) -> None:
    """Measure Sluiceway beside its alternatives and its limits, in interleaved rounds on local servers.

    A goal that is missed is told, and is no failure. Suites: accept, drain-hot, drain-many, slices, baselines,
    sold-out, end-to-end, poll, growth, cost, memory.
    """
    from deploy.bench import report
    from deploy.bench.ground import Bench
    from deploy.bench.suites import Result, chosen, measure

    names = chosen(suites or [])
    say = partial(console.print, soft_wrap=True, highlight=False)

    def keep(result: Result) -> None:
        write_json(json, result)
        if table is not None:
            write_file(table, report.markdown(result.rows).encode())
        if plot is not None:
            write_file(plot, report.plot(result.rows, result.machine).encode())

    with local_servers("bench") as (stack, settings, log_dir):
        result = run(measure(Bench(stack, settings, log_dir, say, quick=quick), names, keep))
    report.render(console, result.rows, result.machine)


@commands.command()
def overload(
    seconds: Annotated[float, typer.Option(min=5, help="How long the burst lasts.")] = 60.0,
    factor: Annotated[float, typer.Option(min=1.1, help="Times what can be sustained.")] = 3.0,
    workers: Workers = 2,
    json: JsonFile = None,
) -> None:
    """Offer more than can be sustained, restart under load, and prove that every 202 is kept. Exit code 1 if not.

    It runs on local servers of its own, whatever is configured.
    """
    from deploy.overload import report
    from deploy.overload.run import Options, prove

    options = Options(seconds=seconds, factor=factor, workers=workers)
    with local_servers("overload", own=True) as (stack, settings, log_dir):
        result, audited = run(prove(stack, settings, options, log_dir, console))
    render_audit(audited)
    report.render(console, result)
    write_json(json, result)
    raise typer.Exit(0 if result.ok else 1)


@commands.command(name="simulate")
def simulate_seeds(
    seeds: Annotated[int, typer.Option(min=1, help="How many runs.")] = 1000,
    start: Annotated[int, typer.Option("--from", min=0, help="The first seed.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Run this one alone.")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="With --seed: tell what happens.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one per core if not given.")] = None,
) -> None:
    """Run the whole pipeline on fakes, with faults, under a seeded scheduler. Exit code 1 if a seed violates anything.

    A run that is interrupted tells what was done until then. Exit code 130.
    """
    from deploy.simulation import report

    if seed is None and trace:
        raise typer.BadParameter("--trace tells one run: name it with --seed")
    ok = report.many(start, seeds, jobs, console) if seed is None else report.one(seed, console, trace=trace)
    raise typer.Exit(0 if ok else 1)


@commands.command()
def chaos(
    duration: Annotated[float, typer.Option(min=5, help="Seconds of each sale.")] = 45.0,
    faults: Annotated[str, typer.Option(help="Kinds, separated by commas; or all.")] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Decides the sale and its faults.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="This many, with consecutive seeds.")] = 1,
    brokers: Annotated[int, typer.Option(min=1, max=9, help="Nodes of Kafka.")] = 1,
    workers: Workers = 3,
    slices: Annotated[int, typer.Option(min=1, max=16, help="Of the hot product.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Keep data and logs also of runs that hold.")] = False,
    json: JsonFile = None,
) -> None:
    """Run sales on local servers with real faults in the middle, and hold all that buyers were told against the truth.

    Exit code 1 if anything was lost, duplicated, contradicted, out of order, never answered or never ended, or if the audit
    fails. Runs that were done are told also where a later one ends with an error.
    """
    from deploy.chaos import faults as kinds
    from deploy.chaos import report
    from deploy.chaos.run import Options

    chosen, results = kinds.kinds_of(faults), []
    try:
        for number in range(seed, seed + runs):
            options = Options(duration, chosen, number, brokers, workers, slices=slices)
            results.append(report.one(options, run, console, keep=keep))
            write_json(json, results)
    finally:
        if results:
            typer.echo(report.table(results))
    raise typer.Exit(0 if all(result.ok for result in results) else 1)
