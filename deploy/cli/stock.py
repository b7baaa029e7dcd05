"""Commands about stock."""

import typer

from deploy.cli.console import console, current_settings, run

commands = typer.Typer(no_args_is_help=True)


@commands.callback()
def stock() -> None:
    """What is in stock, here and elsewhere."""


@commands.command()
def differences() -> None:
    """Where local stock and the second stock source do not agree, and what to do. Exit code 1 if they differ anywhere.

    While a sale runs, look twice and act on what is found both times.
    """
    from deploy.stock import differences as find

    found = run(find(current_settings()))
    for d in found:
        low, high = d.expected
        expected = str(low) if low == high else f"{low} to {high}"
        there = "no answer" if d.source is None else str(d.source)
        console.print(
            f"{d.product_id}: {d.finding}: here {d.local}, there {there}, expected there {expected}; {d.advice}"
            + (f" ({d.detail})" if d.detail else ""),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if not found:
        console.print("local stock and the source agree")
    raise typer.Exit(1 if found else 0)
