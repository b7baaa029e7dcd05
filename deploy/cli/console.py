"""What the commands share: where they print, whose settings they take, how they run."""

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import orjson
import typer
import uvloop
from rich.console import Console

from contracts.errors import Invalid
from contracts.settings import PREFIX, Settings

if TYPE_CHECKING:
    from deploy.stack import LocalStack

console = Console()
errors = Console(stderr=True)

T = TypeVar("T")


def _writable(path: Path | None) -> Path | None:
    """Told before anything is done: what cannot be done twice, or took an hour, is not lost for want of a folder."""
    try:
        writable = path is None or (
            not path.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)
        )
    except OSError:  # so it cannot even be looked at
        writable = False
    if not writable:
        raise typer.BadParameter(f"{path} cannot be written: name a file in a folder that exists")
    return path


def is_text(text: str) -> str:
    """Told before anything is done: an argument may be any bytes, which no server takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter("it is not UTF-8") from error
    return text


def output_file(*names: str, help: str) -> Any:  # noqa: A002
    """An option that names a file to write."""
    return typer.Option(*names, help=help, callback=_writable)


JsonFile = Annotated[Path | None, output_file("--json", help="Write the result to this file as JSON.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")]


def current_settings() -> Settings:
    """From the environment; where that names no server, those of the local deployment that is up."""
    from deploy import local

    kept = local.home() / "up" / local.SETTINGS_FILE
    if any(
        f"{PREFIX}{name}_URL" in os.environ for name in ("KAFKA", "POSTGRES", "REDIS")
    ) or not local.kept_variables(kept):
        return Settings.from_env(os.environ)
    errors.print(f"using the local deployment in {kept.parent}", style="dim")
    return local.given_settings(kept)


@contextmanager
def local_servers(kind: str, *, own: bool = False) -> "Iterator[tuple[LocalStack, Settings, Path]]":
    """Fresh local servers for one run of this kind, the settings of what runs on them, and the folder of its logs.

    A server whose URL is configured is not started but used, unless all are to be the run's `own`.
    """
    from deploy import local
    from deploy.stack import LocalStack

    data_dir = local.new_run_dir(kind, console.print)
    stack = LocalStack(data_dir, say=console.print) if own else local.new_stack(data_dir, console.print)
    with local.telling_where(data_dir, errors.print), stack:
        yield stack, local.local_settings(stack, local.given_settings()), data_dir / "logs"


def render_audit(report: Any) -> None:
    from deploy.audit import render

    render(report, console)


def ending_signals() -> list[signal.Signals]:
    """Those that interrupt as Ctrl-C does. SIGHUP is left alone where it is ignored, as by nohup."""
    numbers = [signal.SIGTERM, signal.SIGHUP]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGTERM and SIGHUP interrupt it as Ctrl-C does, so that everything started is stopped."""

    async def interruptible() -> T:
        task = asyncio.current_task()
        if task is not None:
            for number in ending_signals():
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await main

    try:
        return uvloop.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def read_file(path: Path) -> bytes:
    """Raises Invalid if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"{path}: {error}") from error


def write_file(path: Path, content: bytes) -> None:
    """Raises Invalid if it cannot be written."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise Invalid(f"{path}: {error}") from error


def write_json(path: Path | None, result: Any) -> None:
    """Write a result where `--json` says. Raises Invalid if it cannot be written."""
    if path is not None:
        write_file(path, orjson.dumps(msgspec.to_builtins(result, str_keys=True), option=orjson.OPT_INDENT_2))
