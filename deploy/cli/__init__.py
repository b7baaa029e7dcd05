"""The command line: `sluiceway`."""

import errno
import os
import signal
import sys
import time
from typing import Any

import typer

from contracts.errors import SluicewayError, Unavailable
from deploy.cli import catalogue, deadletters, history, operators, processes, sales, stock, trials
from deploy.cli.console import ending_signals, errors
from deploy.stack import StackError

app = typer.Typer(
    help="Sluiceway: a flash-sale order pipeline. Settings are SLUICEWAY_* variables; see docs/reference/settings.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (processes, sales, operators, history):
    app.add_typer(group.commands)
app.add_typer(catalogue.commands, name="catalogue")
app.add_typer(deadletters.commands, name="deadletters")
app.add_typer(stock.commands, name="stock")
app.add_typer(trials.commands)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
INTERRUPTED = 130  # exit code, as of a shell
UsageError: type[Any] = typer.BadParameter.mro()[
    1
]  # what is wrong with a command line; typer names it nowhere


def main() -> None:
    """The entry point: errors raised on purpose become one line, not a stack trace."""
    _open_standard_streams()
    for number in ending_signals():
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    try:
        code = app(standalone_mode=False)  # that of typer.Exit, which typer makes of an interrupt, too
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if sys.stdout is not None:  # it is if it was closed
            sys.stdout.flush()
        sys.exit(code)
    except (SluicewayError, StackError) as error:
        errors.print(f"sluiceway: {error}", style="red", highlight=False, markup=False)
        if isinstance(error, Unavailable):
            errors.print("`sluiceway doctor` tells which servers answer, and what to do", style="dim")
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        errors.print(f"sluiceway: {error}; make room and run it again", style="red", markup=False)
        # What is still in the buffer would fail once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        errors.print(f"stopped after {time.monotonic() - started:.0f} s", style="dim")
        sys.exit(INTERRUPTED)


def _open_standard_streams() -> None:
    """Where the caller closed one (`>&-`), the first socket would get its number and be written to as output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
