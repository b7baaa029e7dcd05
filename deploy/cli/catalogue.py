"""Commands about the catalogue."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.console import console, current_settings, is_text, read_file, run, write_file

commands = typer.Typer(invoke_without_command=True)

File = Annotated[Path, typer.Argument(dir_okay=False, help="Ends in .csv, .ndjson or .jsonl.")]


@commands.callback()
def catalogue(
    context: typer.Context,
    products: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Products, a JSON object a line.")
    ] = None,
    addresses: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Addresses, a JSON object a line.")
    ] = None,
) -> None:
    """Import and export products; or store products and addresses from files before the first sale."""
    if context.invoked_subcommand is not None:
        return
    if products is None:
        raise typer.BadParameter("say import, export, or which file: --products FILE")
    from deploy.local import prepare
    from stock_ledger.catalogue import read_addresses, read_products

    p = read_products(read_file(products))
    a = read_addresses(read_file(addresses)) if addresses is not None else []
    run(prepare(current_settings(), p, a))
    console.print(f"stored {len(p)} products and {len(a)} addresses")


@commands.command("import")
def import_(
    file: File,
    key: Annotated[
        str,
        typer.Option(
            callback=is_text,
            help="The same file under the same key is taken in once; without one, it is new each time.",
        ),
    ] = "",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until all are decided.")] = 60.0,
) -> None:
    """Put the products of a file into the catalogue, also during a sale; all are checked before any is taken in."""
    from deploy.catalogue import take_in

    done = run(take_in(current_settings(), file, key, wait))
    console.print(
        f"{done.applied} products put, {len(done.refused)} refused, {done.waiting} wait for a worker"
    )
    for line in done.refused:
        console.print(f"refused: {line}", highlight=False, markup=False)
    raise typer.Exit(1 if done.refused or done.waiting else 0)


@commands.command("export")
def export(file: File) -> None:
    """Write all products to a file that import takes."""
    from deploy.catalogue import format_of, give_out

    content = run(give_out(current_settings(), format_of(file)))
    write_file(file, content)
    console.print(f"wrote {len(content)} bytes to {file}", highlight=False, markup=False)
