"""The local stack of real servers, and the tools to run further processes that end with their starter."""

from deploy.stack.process import Reaper, StackError, StartCancelledError, end, spawn, tail
from deploy.stack.server import Server
from deploy.stack.stack import LocalStack, Urls

__all__ = [
    "LocalStack",
    "Reaper",
    "Server",
    "StackError",
    "StartCancelledError",
    "Urls",
    "end",
    "spawn",
    "tail",
]
