"""Commands that are the processes of a deployment."""

import os

import typer

from contracts.settings import Settings

commands = typer.Typer()


@commands.command()
def ingest() -> None:
    """Run an ingest process: takes checkouts in over HTTP and writes them to Kafka."""
    from deploy import processes

    processes.run(processes.ingest, Settings.from_env(os.environ))


@commands.command()
def api() -> None:
    """Run an api process: answers polls; orders, payments, catalogue, stock, addresses, carts."""
    from deploy import processes

    processes.run(processes.api, Settings.from_env(os.environ))


@commands.command()
def worker() -> None:
    """Run a worker: decides the partitions that the group assigns to it."""
    from deploy import processes

    processes.run(processes.worker, Settings.from_env(os.environ))


@commands.command()
def streams() -> None:
    """Run the Faust application: live figures, what is late, refunds, returns to a second stock source."""
    from deploy import processes

    processes.run(processes.streams, Settings.from_env(os.environ))
