"""Where requests become commands in the log: who asks, under which id, what is answered, and what became of it."""

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.orders import wrong_parameter
from api.publisher import CommandPublisher
from api.web import JSON_ONLY, Who, private, route, whole_body
from contracts import asks, problems
from contracts.auth import MERCHANT
from contracts.bodies import Body
from contracts.commands import Command, read_command
from contracts.errors import Invalid, NotAcknowledged
from contracts.idempotency import idempotency_key
from contracts.messages import is_uuid
from contracts.outcomes import Outcome, Refusal
from contracts.problems import Problem
from contracts.receipts import ReceiptSigner
from contracts.settings import Settings
from contracts.slices import product_of
from contracts.times import to_ms
from stock_ledger.commands.reads import CommandReads, StoredCommand

_REQUESTS = uuid.UUID("5f0e1f0b-52f3-5b0f-8e6e-1a0e4e6f7c3d")
_NO_COMMAND = (
    "no such command of yours is decided; while it is queued, poll the Location of the 202 as it is, "
    "since that carries the receipt"
)
_NEW_KEY = "use a new Idempotency-Key to ask for something else"
_RETRY = {"retry-after": "1"}

T = TypeVar("T")


class Desk(NamedTuple):
    """What routes that give commands work with."""

    commands: CommandPublisher
    reads: CommandReads
    who: Who
    has_scope: Callable[[Request, str], bool]
    signer: ReceiptSigner
    clock: Callable[[], datetime]
    settings: Settings

    def merchant(self, request: Request) -> str:
        """Who asks, if it is a merchant. Raises Problem, 401 or 403."""
        asker = self.who(request)
        if not self.has_scope(request, MERCHANT):
            challenge = (
                f'Bearer realm="sluiceway", error="insufficient_scope", scope="{MERCHANT}"'  # RFC 6750 §3.1
            )
            raise Problem(
                problems.FORBIDDEN, f"the token's scope must contain {MERCHANT}",
                headers=[("www-authenticate", challenge)],
            )  # fmt: skip
        return asker

    async def asked(
        self, request: Request, who: Who, kind: Body[T], media_types: Sequence[str] = JSON_ONLY
    ) -> tuple[str, T]:
        """Who asks, and for what. What is wrong with the body is only told to who may ask. Raises Problem."""
        body = await whole_body(request, self.settings.body_bytes_max, media_types)
        return who(request), kind.parse(body)

    def base(self, request: Request, actor: str, what: str) -> dict[str, Any]:
        """What all commands have. The same thing asked by the same actor under the same key is the same command."""
        command_id = str(uuid.uuid5(_REQUESTS, f"{actor}\0{what}\0{_key_of(request)}"))
        return {"command_id": command_id, "actor": actor, "asked_at_ms": to_ms(self.clock())}

    async def known(self, request: Request, command: Command, asker: str) -> Response | None:
        """The answer to a command that is decided already: that of the first time. None for one that is not.

        Ask before whatever else would refuse it: what it has done itself is no reason to. Raises Problem 422 if
        something else was asked under the same key.
        """
        known = await self.decided_before(request, [command], asker)
        return accepted(known[command.command_id]) if known else None

    async def decided_before(
        self, request: Request, commands: Sequence[Command], asker: str
    ) -> dict[str, asks.CommandAccepted]:
        """Of those that are decided already, by their ids, what was answered the first time. See `known`."""
        if "idempotency-key" not in request.headers:
            return {}
        asked = {command.command_id: command for command in commands}
        firsts = await self.reads.commands_under(list(asked))
        if not all(is_same(first, asked[first.command_id]) for first in firsts):
            raise Problem(problems.IDEMPOTENCY_CONFLICT, _NEW_KEY)
        return {
            first.command_id: self.told(asked[first.command_id], asker, (first.partition, first.offset))
            for first in firsts
        }

    async def send(self, request: Request, command: Command, asker: str) -> Response:
        """Publish it; 202 once it is acknowledged. Raises Problem, 422 or 503."""
        return accepted(await self.publish(request, command, asker))

    async def publish(self, request: Request, command: Command, asker: str) -> asks.CommandAccepted:
        """The command's place in the log, once it is acknowledged. Raises Problem: 422 for what no writer could read, 503
        with what to ask again under.
        """
        if wrong := command.wrong():
            raise Problem(
                problems.INVALID, "correct the fields named in errors",
                errors=[{"detail": wrong.detail, "pointer": f"#/{wrong.field}"}],
            )  # fmt: skip
        try:
            place = await self.commands.publish(command)
        except NotAcknowledged as error:
            raise Problem(
                problems.NOT_ACKNOWLEDGED,
                "it may or may not be done; ask again with idempotency_key as the Idempotency-Key: it is not done twice",
                headers=list(_RETRY.items()),
                idempotency_key=_key_of(request),
                command_id=command.command_id,
                status_url=f"/v1/commands/{command.command_id}",
            ) from error
        return self.told(command, asker, place)

    def told(self, command: Command, asker: str, place: tuple[int, int]) -> asks.CommandAccepted:
        receipt = self.signer.sign(command.command_id, asker, command.asked_at_ms, [place])
        url = f"/v1/commands/{command.command_id}?receipt={receipt}"
        subject = product_of(command.subject())
        return asks.CommandAccepted(command.command_id, action_of(command), subject, url, *place)


def _key_of(request: Request) -> str:
    """The request's idempotency key; one that is made for it, and stays, if it has none. Raises Problem 400."""
    header = request.headers.get("idempotency-key")
    if header is not None:
        return idempotency_key(header)
    if not hasattr(request.state, "idempotency_key"):
        request.state.idempotency_key = uuid.uuid4().hex
    made: str = request.state.idempotency_key
    return made


def accepted(told: asks.CommandAccepted) -> Response:
    return private(told, 202, location=told.status_url, **_RETRY)


def action_of(command: Command) -> str:
    return str(command.__struct_config__.tag)


def command_routes(desk: Desk) -> list[Route]:
    async def command(request: Request) -> Response:
        asker = desk.who(request)
        command_id: str = request.path_params["command_id"]
        if not is_uuid(command_id):
            raise Problem(problems.NOT_FOUND, _NO_COMMAND)
        receipt = request.query_params.get("receipt")
        if receipt is None:
            status = await _decided(desk, request, command_id, asker)
        else:
            status = await _at_receipt(desk, receipt, command_id, asker)
        response = private(status)
        if status.status == "queued":
            response.headers.update({"cache-control": "no-store", **_RETRY})
        else:
            response.headers["cache-control"] = "private"
        return response

    return [route("/v1/commands/{command_id}", get=command)]


async def _decided(desk: Desk, request: Request, command_id: str, asker: str) -> asks.CommandStatus:
    """For its actor and for merchants."""
    found = await desk.reads.command(command_id)
    is_theirs = found is not None and found.actor in (f"buyer:{asker}", f"{MERCHANT}:{asker}")
    if found is None or not (is_theirs or desk.has_scope(request, MERCHANT)):
        raise Problem(problems.NOT_FOUND, _NO_COMMAND)
    return status_of(found)


async def _at_receipt(desk: Desk, text: str, command_id: str, asker: str) -> asks.CommandStatus:
    """Of a command that was taken in: it is queued exactly until its own place in the log is decided. What was sent twice
    is decided at its first place; something else under the same id is not done.
    """
    try:
        [(partition, offset)] = desk.signer.verify(text, command_id, asker).positions
    except Invalid as error:
        raise wrong_parameter("receipt", str(error)) from error
    there = await desk.reads.command_at(partition, offset)
    if there is None:
        return asks.CommandStatus(command_id, "queued", partition, offset)
    if there.outcome == Outcome.DEAD:
        return status_of(msgspec.structs.replace(there, command_id=command_id))
    if there.outcome != Outcome.REPEATED:
        return status_of(there)
    first = await desk.reads.command(command_id)
    if first is None:
        raise Problem(problems.NOT_FOUND, _NO_COMMAND)
    if is_same(first, read_command(there.document)):
        return status_of(first)
    return status_of(
        msgspec.structs.replace(
            there, outcome=Outcome.REFUSED, reason=Refusal.IDEMPOTENCY_CONFLICT, detail=_NEW_KEY
        )
    )


def is_same(first: StoredCommand, command: Command) -> bool:
    """Whether it asks for what was asked for then, at whatever time."""
    asked = None if first.document is None else read_command(first.document)
    return asked is not None and msgspec.structs.replace(asked, asked_at_ms=command.asked_at_ms) == command


def status_of(command: StoredCommand) -> asks.CommandStatus:
    """The command as clients get it."""
    return asks.CommandStatus(
        command_id=command.command_id,
        status=command.outcome,  # type: ignore[arg-type]
        partition=command.partition,
        offset=command.offset,
        action=command.action,
        subject=product_of(command.subject),
        actor=command.actor,
        asked_at=command.asked_at,
        decided_at=command.decided_at,
        reason=None if command.reason is None else Refusal(command.reason),
        detail=command.detail,
    )
