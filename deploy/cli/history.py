"""Commands about what is kept, and for how long."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.console import (
    JsonFile,
    console,
    current_settings,
    is_text,
    output_file,
    run,
    write_file,
    write_json,
)

commands = typer.Typer()
buyer = typer.Typer(help="A buyer's data: give it out, or erase it.", no_args_is_help=True)
commands.add_typer(buyer, name="buyer")

Buyer = Annotated[str, typer.Argument(callback=is_text, help="The buyer's id.")]


@commands.command()
def retention(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    json: JsonFile = None,
) -> None:
    """Cut partitions ahead, archive what is older than SLUICEWAY_RETENTION_DAYS, and drop it. Run it once a day."""
    from deploy.processes import now
    from deploy.retention import retain

    done = run(retain(current_settings(), now(), dry_run=dry_run))
    would = "would be " if dry_run else ""
    for told, lines in (
        (f"{would}cut", done.cut),
        (f"{would}archived and dropped", done.dropped),
        ("kept", done.kept),
    ):
        for line in lines:
            console.print(f"{told}: {line}", highlight=False, markup=False)
    if not (done.cut or done.dropped or done.kept):
        console.print("nothing to do")
    write_json(json, done)


@buyer.command()
def export(
    buyer_id: Buyer,
    output: Annotated[
        Path | None, output_file("--output", "-o", help="A file, instead of standard output.")
    ] = None,
) -> None:
    """Everything stored of a buyer as one JSON document, archives included."""
    import orjson

    from deploy.buyer import export as export_buyer
    from deploy.processes import now

    document = run(export_buyer(current_settings(), buyer_id, now()))
    content = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z, default=str)
    if output is None:
        typer.echo(content)
        return
    write_file(output, content)


@buyer.command()
def erase(
    buyer_id: Buyer,
    force: Annotated[bool, typer.Option("--force", help="Also while orders of the buyer are open.")] = False,
    json: JsonFile = None,
) -> None:
    """Replace a buyer by a pseudonym everywhere; remove names, phones, addresses, notes and the cart. It cannot be undone."""
    from deploy.buyer import erase as erase_buyer

    erased = run(erase_buyer(current_settings(), buyer_id, force=force))
    if not erased.pseudonym:
        console.print("nothing is stored of this buyer")
    for what, counts in (("", erased.rows), ("archive ", erased.archived)):
        for name, count in counts.items():
            console.print(f"{what}{name}: {count} rows", highlight=False)
    if erased.pseudonym:
        console.print(
            f"the buyer is now {erased.pseudonym}; {erased.cache_keys} keys removed from the cache",
            highlight=False,
        )
    write_json(json, erased)
