"""Commands that run a whole local deployment."""

from typing import Annotated

import typer

from deploy.cli.console import (
    JsonFile,
    Workers,
    console,
    errors,
    local_servers,
    render_audit,
    run,
    write_json,
)

commands = typer.Typer()


@commands.command()
def demo(
    checkouts: Annotated[int, typer.Option(min=1, help="Checkouts to submit.")] = 20_000,
    buyers: Annotated[int, typer.Option(min=1, max=99_999, help="Different buyers.")] = 5_000,
    products: Annotated[int, typer.Option(min=1, max=9_999, help="Products beside the hot one.")] = 200,
    stock: Annotated[int, typer.Option(min=0, help="Units of the hot product.")] = 2_000,
    workers: Workers = 2,
    seed: Annotated[int, typer.Option(help="The same seed makes the same sale.")] = 1,
    json: JsonFile = None,
) -> None:
    """Run a whole sale on local servers, with real buyers over HTTP who pay, cancel or let orders time out; audit it."""
    from deploy.demo import report
    from deploy.demo.run import Options, sell

    options = Options(checkouts, buyers, products, stock, workers, seed)
    with local_servers("demo") as (servers, settings, log_dir):
        result, audited = run(sell(servers, settings, options, log_dir, console))
    render_audit(audited)
    report.render(console, result)
    write_json(json, result)
    raise typer.Exit(0 if result.ok else 1)


@commands.command()
def up(workers: Workers = 2) -> None:
    """Start everything on local servers with the sample catalogue, and stay up until Ctrl-C."""
    from deploy import local
    from deploy.up import as_before, stay_up

    data_dir = local.home() / "up"
    with local.telling_where(data_dir, errors.print), local.new_stack(data_dir, console.print) as stack:
        settings = as_before(data_dir, local.local_settings(stack, local.given_settings()))
        run(stay_up(stack, settings, data_dir, workers, console))
