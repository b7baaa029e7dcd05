"""Commands about what could not be decided."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from contracts.errors import Invalid
from contracts.settings import Settings
from deploy.cli.console import console, current_settings, errors, read_file, run

commands = typer.Typer(
    help="What could not be decided and was set aside: list it, show it, put it through again.",
    no_args_is_help=True,
)
Place = Annotated[
    str,
    typer.Argument(
        metavar="[commands:]PARTITION:OFFSET",
        help="Where it lay in the checkouts topic, or in the commands topic.",
    ),
]


@commands.command(name="list")
def list_dead_letters() -> None:
    """List what was set aside, where it lay and why."""
    from deploy.deadletters import letters

    found, strays = run(letters(current_settings()))
    table = Table("place", "why it was set aside", "bytes", "today")
    for letter in found:
        today = escape(harmless(letter.still)) if letter.still else "[green]can be replayed[/]"
        table.add_row(letter.where, escape(harmless(letter.reason)), f"{len(letter.value):,}", today)
    for stray in strays:
        table.add_row(stray.where, escape(stray.told), f"{stray.size:,}", "")
    console.print(table if table.row_count else "no dead letters")


@commands.command()
def show(place: Place) -> None:
    """Show one: why and under which key on standard error, and its value. Into a file goes just the value, byte for byte:
    mend it there, and replay it with --value.
    """
    letter = _dead_letter(current_settings(), place)
    errors.print(f"{letter.where} {harmless(letter.reason)}", markup=False, highlight=False)
    if letter.truncated_to is not None:
        errors.print(f"cut to {letter.truncated_to} bytes", highlight=False)
    errors.print(f"key   {letter.key!r}", markup=False, highlight=False)
    if sys.stdout.isatty():  # which would obey what the value has of control characters
        console.print(harmless(letter.value), markup=False, highlight=False, soft_wrap=True)
    else:
        sys.stdout.buffer.write(letter.value)


def harmless(content: bytes | str) -> str:
    """Text, with what is not to be printed as Python writes it. Reasons quote what could not be read, too."""
    text = content.decode(errors="backslashreplace") if isinstance(content, bytes) else content
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


@commands.command()
def replay(
    place: Annotated[
        str | None, typer.Argument(metavar="[commands:]PARTITION:OFFSET", help="Which one.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that can be decided today.")] = False,
    value: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its content, mended.")
    ] = None,
) -> None:
    """Put dead letters into the topics they came from again. Replaying twice decides once."""
    from deploy.deadletters import letters, written
    from deploy.deadletters import replay as send_again

    if (place is None) != everything or (everything and value is not None):
        raise typer.BadParameter("name one place, with --value if need be, or say --all")
    settings = current_settings()
    if place is None:
        found, strays = run(letters(settings))
        chosen = [letter for letter in found if not letter.still and not letter.truncated_to]
        for stray in strays:
            console.print(f"{stray.where} is left out, {stray.told}", highlight=False, markup=False)
    else:
        chosen = [_dead_letter(settings, place)]

    def tell(letter: Any, now: Any) -> None:
        console.print(f"{letter.where} is again in the log, at {written(now)}", highlight=False)

    run(send_again(settings, chosen, read_file(value) if value is not None else None, tell))
    if not chosen:
        console.print("none can be decided today; mend one and replay it with --value")


def _dead_letter(settings: Settings, place: str) -> Any:
    from deploy.deadletters import letters

    found, strays = run(letters(settings))
    for letter in found:
        if letter.where == place:
            return letter
    for stray in strays:
        if stray.where == place:
            raise Invalid(f"at {place} is {stray.told}")
    raise Invalid(f"no dead letter is of {place}; `sluiceway deadletters list` shows which there are")
