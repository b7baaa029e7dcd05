"""Refunds: payments that are due back are sent to their provider, whose answer becomes a command of the order.

Any number of processes may ask: a refund is one process's at a time, and a provider knows it by its key.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from purgatory import AsyncCircuitBreakerFactory, Event
from purgatory.domain.messages.events import ContextChanged
from purgatory.domain.model import CLOSED, OpenedState
from purgatory.service._async.circuitbreaker import AsyncCircuitBreaker

from contracts.errors import Invalid, PaymentRefused, Unavailable, as_text
from contracts.payments import Charge, Refunded
from contracts.settings import Settings
from stock_ledger.commands.refunds import DueRefund, Refunds, charge_of, given_back, wait_s
from workers.asking import Send, ask_all

logger = logging.getLogger(__name__)

_REASON = "the order was closed or paid already"
_DETAIL_CHARS_MAX = 200


class Refunder(Protocol):
    """Of a payment provider what gives money back. Raises PaymentRefused, Invalid or Unavailable."""

    @property
    def name(self) -> str: ...

    @property
    def methods(self) -> frozenset[str]: ...

    async def refund(self, charge: Charge, reference: str, reason: str) -> Refunded: ...


class Later(msgspec.Struct, frozen=True):
    """Still due, and why. Without `counts` nobody was asked."""

    detail: str
    wait_s: float
    counts: bool = True


class Refunding:
    """Asks providers in rounds. A provider that fails `refund_failures_max` times in a row is left alone for a while;
    then one call tries.
    """

    def __init__(
        self,
        refunds: Refunds,
        providers: Sequence[Refunder],
        settings: Settings,
        clock: Callable[[], datetime],
    ) -> None:
        """`providers`: of several that serve a method, the first is asked."""
        self._refunds = refunds
        self._by_name: Mapping[str, Refunder] = {p.name: p for p in providers}
        self._by_method = {method: p for p in reversed(providers) for method in p.methods}
        self._settings = settings
        self._clock = clock
        self._breakers = AsyncCircuitBreakerFactory(
            default_threshold=settings.refund_failures_max,
            default_ttl=settings.refund_circuit_s,
            exclude=[PaymentRefused, Invalid],  # answers
        )
        self._breakers.add_listener(_tell_circuit)
        # Of each provider: one that does not answer keeps no other one waiting.
        self._calls = {p.name: asyncio.Semaphore(settings.refund_calls_max) for p in providers}
        self._trying = {p.name: asyncio.Lock() for p in providers}

    async def ask(self, send: Send) -> None:
        """One round. Returns when what came of it is in the log, and noted. What could not be put there is asked for again,
        and the provider knows it by its key.
        """
        now, deadline_s = self._clock(), self._settings.refund_deadline_s
        try:
            due = await self._refunds.take(
                now, now + timedelta(seconds=2 * deadline_s), self._settings.refund_rows_max
            )
            until = asyncio.get_running_loop().time() + deadline_s
            answers = await asyncio.gather(*(self._ask(one, until) for one in due))
            done = []
            for one, answer in zip(due, answers, strict=True):
                if isinstance(answer, Later):
                    await self._refunds.note(
                        one, now + timedelta(seconds=answer.wait_s), answer.detail, counts=answer.counts
                    )
                    continue
                done.append(given_back(one, *answer, self._clock()))
            await ask_all(done, self._settings, send)
        except Unavailable as error:
            logger.warning("refunds wait: %s", error, extra={"action": "refunds"})

    async def _ask(self, due: DueRefund, until: float) -> tuple[str, str] | Later:
        """Provider and id of the refund that is done, or why it is not."""
        provider = self._by_name.get(due.provider) if due.provider else self._by_method.get(due.method)
        if provider is None:
            what = f"the provider {due.provider}" if due.provider else f"a provider for {due.method}"
            return self._later(due, f"{what} is not configured", "refund_unserved", self._longest_s())
        answer = await self._answer_of(provider, due, until)
        if isinstance(answer, Later):
            return answer
        if not answer.final:
            why = f"{provider.name} has taken it in as {answer.refund_id}; the money is on its way"
            return Later(as_text(why, _DETAIL_CHARS_MAX), self._longest_s())
        return provider.name, answer.refund_id

    async def _answer_of(self, provider: Refunder, due: DueRefund, until: float) -> Refunded | Later:
        try:
            async with asyncio.timeout_at(until), self._calls[provider.name]:
                return await self._through_circuit(provider, due)
        except OpenedState as error:
            error.__traceback__ = None  # the same error is raised each time, and would grow each time
            why = f"{provider.name} has failed too often just now"
            return Later(why, self._settings.refund_circuit_s, counts=False)
        except (PaymentRefused, Invalid) as error:
            return self._later(due, str(error), "refund_refused", self._longest_s())
        except (Unavailable, TimeoutError) as error:
            why = str(error) or f"no answer within {self._settings.refund_deadline_s:g} s"
            return self._later(due, why, "refund_unanswered", self._next_s(due))
        except Exception as error:  # whatever a plug-in raises must not keep others' refunds
            logger.exception("provider %s", provider.name, extra={"action": "refund_failed"})
            return self._later(due, f"{provider.name} failed: {error!r}", "refund_failed", self._next_s(due))

    async def _through_circuit(self, provider: Refunder, due: DueRefund) -> Refunded:
        """While the circuit is not closed, one at a time: of many, only the first that may try does."""
        breaker = await self._breakers.get_breaker(provider.name)
        while breaker.context.state != CLOSED:
            async with self._trying[provider.name]:
                if breaker.context.state != CLOSED:
                    return await _counted(breaker, provider, due)
        return await _counted(breaker, provider, due)

    def _later(self, due: DueRefund, why: str, action: str, wait_s: float) -> Later:
        detail = as_text(why, _DETAIL_CHARS_MAX)
        logger.warning(
            "payment %s of order %s is still due back: %s", due.reference, due.order_id, detail,
            extra={"action": action},
        )  # fmt: skip
        return Later(detail, wait_s)

    def _next_s(self, due: DueRefund) -> float:
        return wait_s(due.tries, self._settings.refund_retry_s, self._settings.refund_retry_max_s)

    def _longest_s(self) -> float:
        return self._settings.refund_retry_max_s


async def _counted(breaker: AsyncCircuitBreaker, provider: Refunder, due: DueRefund) -> Refunded:
    async with breaker:
        return await provider.refund(charge_of(due), due.reference, _REASON)


def _tell_circuit(name: str, _: str, event: Event) -> None:
    if isinstance(event, ContextChanged):
        logger.warning(
            "provider %s: the circuit of its refunds is %s",
            name,
            event.state,
            extra={"action": "refund_circuit"},
        )
