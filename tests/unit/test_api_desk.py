"""What buyers and merchants ask of orders over HTTP, and what they are told of it."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from contracts.commands import Cancel, Close, Ship, encode_command
from contracts.decisions import order_id_of, order_partition
from contracts.outcomes import OrderStatus
from contracts.times import to_ms
from stock_ledger.commands.reads import OrderHead, StoredCommand
from stock_ledger.lifecycle import TRANSITIONS, allowed
from tests.unit.api_fakes import BUYER, CHECKOUT, NOW
from tests.unit.api_service import Service, is_problem

ORDER = order_id_of(to_ms(NOW), 7, 3)
MERCHANT = {"buyer": "shop", "token_scope": "profile merchant"}
YEARS_S = 3e9  # a token of these tests is good until 2096
STEPS = ("cancel", "close", "pick", "ship", "complete")


@pytest.fixture
def service() -> Service:
    made = Service()
    put(made, OrderStatus.PENDING_PAYMENT)
    return made


def put(service: Service, status: OrderStatus) -> None:
    service.command_reads.orders[ORDER] = OrderHead(
        ORDER, BUYER, status, Decimal("258.00"), "CNY", "sandbox", "pending", NOW + timedelta(minutes=15)
    )


async def ask(service: Service, action: str, content: Any = None, **how: Any) -> Any:
    return await service.send("POST", f"/v1/orders/{ORDER}/{action}", content or {}, **how)


async def test_a_buyer_cancels(service: Service) -> None:
    answered = await ask(service, "cancel")
    [command] = service.commands.published
    assert isinstance(command, Cancel)
    assert (command.order_id, command.buyer_id, command.actor) == (ORDER, BUYER, f"buyer:{BUYER}")
    assert answered.status == 202
    assert answered.headers["location"] == answered.json["status_url"]
    assert answered.json["status_url"].startswith(f"/v1/commands/{command.command_id}?receipt=")
    assert (answered.json["partition"], answered.json["offset"]) == (order_partition(ORDER), 0)


async def test_the_same_key_is_the_same_command_of_the_same_actor_about_the_same_thing(
    service: Service,
) -> None:
    key = [("Idempotency-Key", "once")]
    await ask(service, "cancel", headers=key)
    await ask(service, "cancel", headers=key)
    await ask(service, "close", headers=key, **MERCHANT)
    await ask(service, "cancel")
    ids = [command.command_id for command in service.commands.published]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    bad = await ask(service, "cancel", headers=[("Idempotency-Key", "")])
    assert is_problem(bad, 400, "bad_request")


@pytest.mark.parametrize("status", OrderStatus)
@pytest.mark.parametrize("action", STEPS)
async def test_what_the_state_machine_forbids_is_refused_at_once(
    service: Service, status: OrderStatus, action: str
) -> None:
    put(service, status)
    answered = await ask(service, action, **({} if action == "cancel" else MERCHANT))
    if (status, action) in TRANSITIONS:
        assert answered.status == 202
        return
    assert is_problem(answered, 409, "transition_forbidden")
    assert (answered.json["order_status"], answered.json["allowed"]) == (status, allowed(status))
    assert service.commands.published == []


async def test_the_order_of_another_is_not_there(service: Service) -> None:
    assert is_problem(await ask(service, "cancel", buyer="somebody-else"), 404, "not_found")
    assert is_problem(await service.send("POST", "/v1/orders/none/cancel", {}), 404, "not_found")
    assert is_problem(await ask(service, "cancel", buyer=None), 401, "unauthorized")


@pytest.mark.parametrize("action", [step for step in STEPS if step != "cancel"])
async def test_only_a_merchant_may(service: Service, action: str) -> None:
    answered = await ask(service, action)
    assert is_problem(answered, 403, "forbidden")
    assert 'scope="merchant"' in answered.headers["www-authenticate"]
    assert is_problem(await ask(service, action, token_scope="merchants"), 403, "forbidden")
    assert service.commands.published == []


@pytest.mark.parametrize("action", STEPS)
@pytest.mark.parametrize("body", ['{"no": "field"}', "no JSON"])
async def test_what_is_wrong_is_only_told_to_who_may_ask(service: Service, action: str, body: str) -> None:
    assert is_problem(await ask(service, action, body, buyer=None), 401, "unauthorized")
    if action != "cancel":
        assert is_problem(await ask(service, action, body), 403, "forbidden")


async def test_closing_and_shipping_carry_what_is_said(service: Service) -> None:
    await ask(service, "close", {"why": "damaged"}, **MERCHANT)
    put(service, OrderStatus.PICKED)
    await ask(service, "ship", {"carrier": "SF", "tracking": "1"}, **MERCHANT)
    close, ship = service.commands.published
    assert isinstance(close, Close)
    assert isinstance(ship, Ship)
    assert (close.why, close.actor, ship.carrier, ship.tracking) == ("damaged", "merchant:shop", "SF", "1")
    assert is_problem(await ask(service, "ship", {"by": "SF"}, **MERCHANT), 422, "invalid")


@pytest.mark.parametrize("given", [[], [("Idempotency-Key", '"once"')]])
async def test_what_is_not_acknowledged_may_be_asked_again_under_the_key_that_is_told(
    service: Service, given: list[tuple[str, str]]
) -> None:
    """Also by who gave none: under another one it would be done twice."""
    service.commands.available = False
    answered = await ask(service, "cancel", headers=given)
    assert is_problem(answered, 503, "not_acknowledged")
    assert answered.headers["retry-after"] == "1"
    assert not given or answered.json["idempotency_key"] == "once"
    assert answered.json["status_url"] == f"/v1/commands/{answered.json['command_id']}"
    service.commands.available = True
    again = await ask(service, "cancel", headers=[("Idempotency-Key", answered.json["idempotency_key"])])
    assert (again.status, again.json["command_id"]) == (202, answered.json["command_id"])


def decided(service: Service, outcome: str = "applied", offset: int = 0, **changes: Any) -> StoredCommand:
    """The command that was published last, as decided."""
    command = service.commands.published[-1]
    assert isinstance(command, Cancel | Close)
    stored = StoredCommand(
        command.command_id, str(command.__struct_config__.tag), ORDER, command.actor, outcome, None, 7, offset, NOW,
        NOW, "", encode_command(command).decode(),
    )  # fmt: skip
    stored = msgspec.structs.replace(stored, **changes)
    service.command_reads.commands[stored.command_id] = stored
    return stored


async def test_a_retry_of_what_is_done_is_answered_as_the_first_time(service: Service) -> None:
    key = [("Idempotency-Key", "once")]
    first = await ask(service, "cancel", headers=key)
    decided(service)
    put(service, OrderStatus.CLOSED_BY_USER)
    service.clock.now_s += 60
    again = await ask(service, "cancel", headers=key)
    assert again.status == 202
    names = ("command_id", "action", "subject", "partition", "offset")
    assert [again.json[name] for name in names] == [first.json[name] for name in names]
    assert len(service.commands.published) == 1
    assert is_problem(await ask(service, "cancel"), 409, "transition_forbidden")


async def test_a_key_is_for_one_request(service: Service) -> None:
    how: dict[str, Any] = {"headers": [("Idempotency-Key", "once")], **MERCHANT}
    await ask(service, "close", {"why": "damaged"}, **how)
    decided(service)
    assert is_problem(await ask(service, "close", {"why": "lost"}, **how), 422, "idempotency_conflict")
    assert (await ask(service, "close", {"why": "damaged"}, **how)).status == 202


async def test_a_command_is_queued_until_its_place_is_decided(service: Service) -> None:
    url = (await ask(service, "cancel")).json["status_url"]
    queued = await service.get(url)
    assert (queued.json["status"], queued.json["partition"], queued.json["offset"]) == ("queued", 7, 0)
    assert (queued.headers["cache-control"], queued.headers["retry-after"]) == ("no-store", "1")
    decided(service, "refused", reason="not_allowed")
    answered = await service.get(url)
    assert (answered.json["status"], answered.json["reason"]) == ("refused", "not_allowed")
    assert (answered.headers["cache-control"], answered.headers.get("retry-after")) == ("private", None)


async def test_what_was_sent_twice_is_decided_at_its_first_place(service: Service) -> None:
    key = [("Idempotency-Key", "once")]
    await ask(service, "cancel", headers=key)
    url = (await ask(service, "cancel", headers=key)).json["status_url"]
    first = decided(service)
    service.command_reads.elsewhere.append(msgspec.structs.replace(first, outcome="repeated", offset=1))
    answered = await service.get(url)
    assert (answered.json["status"], answered.json["offset"]) == ("applied", 0)


async def test_what_else_was_sent_under_the_same_key_is_not_done(service: Service) -> None:
    """Also where neither was decided yet when it came."""
    how: dict[str, Any] = {"headers": [("Idempotency-Key", "once")], **MERCHANT}
    await ask(service, "close", {"why": "damaged"}, **how)
    first = decided(service)
    del service.command_reads.commands[first.command_id]
    url = (await ask(service, "close", {"why": "lost"}, **how)).json["status_url"]
    service.command_reads.commands[first.command_id] = first
    queued = await service.get(url, **MERCHANT)
    assert (queued.json["status"], queued.json["offset"]) == ("queued", 1), "its own place is not decided"
    other = encode_command(service.commands.published[-1]).decode()
    service.command_reads.elsewhere.append(
        msgspec.structs.replace(first, outcome="repeated", offset=1, document=other)
    )
    answered = (await service.get(url, **MERCHANT)).json
    assert (answered["status"], answered["reason"], answered["offset"]) == (
        "refused",
        "idempotency_conflict",
        1,
    )
    assert "new Idempotency-Key" in answered["detail"]


async def test_a_command_that_could_not_be_read(service: Service) -> None:
    accepted = (await ask(service, "cancel")).json
    service.command_reads.elsewhere.append(
        StoredCommand("", "", "", "", "dead_lettered", None, 7, 0, NOW, detail="no such action")
    )
    answered = await service.get(accepted["status_url"])
    assert (answered.json["status"], answered.json["detail"]) == ("dead_lettered", "no such action")
    assert answered.json["command_id"] == accepted["command_id"]


async def test_a_receipt_of_a_checkout_opens_no_command(service: Service) -> None:
    """At its place in the other log lies what somebody else has asked."""
    await ask(service, "cancel", headers=[("Idempotency-Key", "of another")])
    decided(service, actor="buyer:another")
    for positions in ([(7, 0)], [(7, 0), (1, 1)]):
        text = service.signer.sign(CHECKOUT, BUYER, 1, positions)
        answered = await service.get(f"/v1/commands/{CHECKOUT}?receipt={text}")
        assert is_problem(answered, 422, "invalid")


async def test_a_receipt_is_of_one_command_for_one_asker(service: Service) -> None:
    url = (await ask(service, "cancel")).json["status_url"]
    other = (await ask(service, "cancel")).json["command_id"]
    forged = f"/v1/commands/{other}?{url.partition('?')[2]}"
    for answered in (await service.get(url, buyer="somebody-else"), await service.get(forged)):
        assert is_problem(answered, 422, "invalid")
        assert answered.json["errors"][0]["parameter"] == "receipt"


async def test_who_may_see_what_became_of_a_command(service: Service) -> None:
    await ask(service, "cancel")
    path = f"/v1/commands/{service.commands.published[-1].command_id}"
    assert is_problem(await service.get(path), 404, "not_found")
    decided(service)
    assert (await service.get(path)).json["status"] == "applied"
    assert (await service.get(path, **MERCHANT)).status == 200
    assert is_problem(await service.get(path, buyer="somebody-else"), 404, "not_found")
    assert is_problem(await service.get("/v1/commands/none"), 404, "not_found")
    decided(service, actor="provider:stripe")
    assert is_problem(await service.get(path, buyer="stripe"), 404, "not_found")


async def test_the_log_of_an_order(service: Service) -> None:
    await ask(service, "cancel")
    decided(service)
    path = f"/v1/orders/{ORDER}/events"
    for how in ({}, MERCHANT):
        [entry] = (await service.get(path, **how)).json["commands"]
        assert (entry["action"], entry["actor"], entry["status"]) == ("cancel", f"buyer:{BUYER}", "applied")
    assert is_problem(await service.get(path, buyer="somebody-else"), 404, "not_found")


async def test_a_token_that_expires_while_it_is_used_is_401(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask(service, "cancel")
    decided(service)
    reads, begun_s = service.command_reads, service.clock.now_s
    order, command = reads.order, reads.command

    async def slow_order(order_id: str) -> OrderHead | None:
        service.clock.now_s += YEARS_S
        return await order(order_id)

    async def slow_command(command_id: str) -> StoredCommand | None:
        service.clock.now_s += YEARS_S
        return await command(command_id)

    monkeypatch.setattr(reads, "order", slow_order)
    monkeypatch.setattr(reads, "command", slow_command)
    command_id = service.commands.published[-1].command_id
    for path in (f"/v1/orders/{ORDER}/events", f"/v1/commands/{command_id}"):
        service.clock.now_s = begun_s
        assert is_problem(await service.get(path, **MERCHANT), 401, "unauthorized")
