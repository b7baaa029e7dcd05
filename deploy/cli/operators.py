"""Commands for those who operate a deployment."""

from typing import Annotated

import typer

from deploy.cli.console import JsonFile, console, current_settings, render_audit, run, write_file

commands = typer.Typer()


@commands.command()
def migrate() -> None:
    """Bring the Postgres schema to the newest revision."""
    from stock_ledger import schema

    before, after = run(schema.migrate(current_settings().postgres_url))
    console.print(
        f"schema: {before or 'empty'} -> {after}" if before != after else f"schema: {after}, nothing to do"
    )


@commands.command()
def topics() -> None:
    """Create the topics that are missing and check the partition counts."""
    from deploy.topics import ensure_topics

    made = run(ensure_topics(current_settings()))
    console.print(f"made {', '.join(made)}" if made else "all topics are there")


@commands.command()
def audit(
    json: JsonFile = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Have the cache rebuilt from Postgres where it deviates.")
    ] = False,
) -> None:
    """Prove from outside that nothing was lost, doubled or oversold. Exit code 1 if anything deviates."""
    from deploy.audit import run as run_audit
    from deploy.repair import repair as repair_view

    if not repair:
        report = run(run_audit(current_settings()))
        render_audit(report)
        result = report.to_json()
    else:
        repaired = run(repair_view(current_settings()))
        render_audit(repaired.before)
        for done in repaired.done or ["nothing to repair in the cache"]:
            console.print(f"repair: {done}", highlight=False, markup=False)
        report = repaired.after
        if repaired.done:
            render_audit(report)
        result = repaired.to_json()
    if json is not None:
        write_file(json, result)
    raise typer.Exit(0 if report.ok else 1)


@commands.command()
def token(
    buyer: Annotated[str, typer.Argument(help="The buyer's id.")] = "buyer-00001",
    hours: Annotated[float, typer.Option(min=0.01, max=87_600, help="How long it is valid.")] = 12.0,
    merchant: Annotated[bool, typer.Option("--merchant", help="One that may also run the shop.")] = False,
) -> None:
    """Print a bearer token, for trying: a buyer's, or a merchant's."""
    from contracts.auth import MERCHANT
    from deploy import local

    scope = MERCHANT if merchant else ""
    typer.echo(local.token(current_settings(), buyer, int(hours * 3600), scope))


@commands.command()
def doctor() -> None:
    """Tell what is reachable, which versions, what is misconfigured and how to mend it."""
    from deploy.doctor import examine

    raise typer.Exit(0 if run(examine(current_settings, console)) else 1)
