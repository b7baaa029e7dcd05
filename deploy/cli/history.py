"""Commands about what is kept, and for how long."""

from typing import Annotated

import typer

from deploy.cli.console import JsonFile, console, current_settings, run, write_json

commands = typer.Typer()


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
