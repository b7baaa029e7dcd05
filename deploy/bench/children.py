"""Running a module of the bench as a process of its own: its plan goes in, what it found comes out."""

import asyncio
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from deploy.stack import StackError

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent.parent


async def child(module: str, plan: msgspec.Struct, answer: type[T]) -> T:
    """Run a module with its plan on standard input, and decode what it writes.

    Raises StackError if it fails; it has said why on standard error then.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, stdin=-1, stdout=-1, cwd=ROOT
    )
    try:
        output, _ = await process.communicate(msgspec.json.encode(plan))
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        raise StackError(f"{module} ended with status {process.returncode}")
    return msgspec.json.decode(output, type=answer)
