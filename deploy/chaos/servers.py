"""The servers of a history: a local stack whose clients come through proxies."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from contracts.settings import Settings
from deploy.chaos.proxy import Proxy, serving
from deploy.local import given_settings, local_settings
from deploy.stack import LocalStack

_PARTITIONS = 8  # few, so that each is always busy


class Servers(msgspec.Struct):
    """A started local stack, and its proxies in the order of its servers: brokers, Postgres, cache."""

    stack: LocalStack
    proxies: list[Proxy]

    def settings(self) -> Settings:
        """What processes are to be configured with."""
        own = local_settings(self.stack, given_settings())
        postgres, cache = self.proxies[-2:]
        return msgspec.structs.replace(
            own,
            postgres_url=own.postgres_url.replace(f":{postgres.target}/", f":{postgres.port}/"),
            redis_url=own.redis_url.replace(f":{cache.target}/", f":{cache.port}/"),
            partitions=_PARTITIONS,
            replication_factor=min(len(self.stack.brokers), 3),
        )


@contextmanager
def servers(data_dir: Path, brokers: int, say: Callable[[str], None]) -> Iterator[Servers]:
    """Started, and killed at the end: what they hold is not needed any more."""
    proxies = [Proxy(f"kafka-{number}") for number in range(1, brokers + 1)]
    stack = LocalStack(data_dir, kafka_ports=[proxy.port for proxy in proxies], say=say)
    proxies += [Proxy("postgres"), Proxy("cache")]
    began = time.monotonic()
    with stack:
        own = [*stack.brokers, stack.postgres, stack.cache]
        for proxy, server in zip(proxies, own, strict=True):
            proxy.target = server.port
        say(f"servers are up after {time.monotonic() - began:.1f} s")
        try:
            with serving(proxies):
                yield Servers(stack, proxies)
        finally:
            for server in own:
                server.kill()
