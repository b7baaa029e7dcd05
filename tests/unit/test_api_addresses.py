"""The address book over HTTP."""

from typing import Any

import msgspec
import pytest

from contracts.buyers import AddressList, AddressView
from contracts.openapi_examples import ADDRESS_REQUEST
from tests.unit.api_service import Service, is_problem

HOME: dict[str, Any] = {
    "contact_name": "Wang Fang",
    "phone": "+86 138 0000 0000",
    "address": "1 Example Road",
}
WORK = {**HOME, "address": "2 Example Road"}
PATH = "/v1/addresses"


@pytest.fixture
def service() -> Service:
    return Service()


async def listed(service: Service, **how: Any) -> list[tuple[str, bool]]:
    answered = await service.get(PATH, **how)
    assert answered.headers["cache-control"] == "private, no-cache"
    addresses = msgspec.json.decode(answered.body, type=AddressList).addresses
    return [(address.address_id, address.default) for address in addresses]


async def test_an_address_is_added_under_an_id_made_here(service: Service) -> None:
    answered = await service.send("POST", PATH, HOME)
    assert (answered.status, answered.headers["location"]) == (201, "/v1/addresses/made-1")
    expected = {"address_id": "made-1", **HOME, "default": True}
    assert answered.json == (await service.get(answered.headers["location"])).json == expected
    await service.send("POST", PATH, WORK)
    assert await listed(service) == [("made-1", True), ("made-2", False)]


async def test_an_address_is_added_and_replaced_under_an_id_of_the_clients(service: Service) -> None:
    assert (await service.send("PUT", f"{PATH}/home", HOME)).status == 201
    answered = await service.send("PUT", f"{PATH}/home", WORK)
    assert (answered.status, answered.json) == (200, {"address_id": "home", **WORK, "default": True})
    assert (await service.send("PUT", f"{PATH}/work", WORK)).json["default"] is False
    assert (await service.send("PUT", f"{PATH}/work", {**HOME, "default": True})).json["default"] is True
    assert await listed(service) == [("work", True), ("home", False)]


async def test_a_default_that_is_deleted_gives_way_to_the_one_before(service: Service) -> None:
    for address_id in ("a", "b"):
        await service.send("PUT", f"{PATH}/{address_id}", {**HOME, "default": True})
    deleted = await service.send("DELETE", f"{PATH}/b")
    assert (deleted.status, deleted.body) == (204, b"")
    assert await listed(service) == [("a", True)]
    assert is_problem(await service.send("DELETE", f"{PATH}/b"), 404, "not_found")


async def test_addresses_are_their_buyers_alone(service: Service) -> None:
    await service.send("PUT", f"{PATH}/home", HOME)
    absent = await service.get(f"{PATH}/none", buyer="buyer-2")
    others = await service.get(f"{PATH}/home", buyer="buyer-2")
    assert is_problem(absent, 404, "not_found")
    assert (others.status, others.body) == (absent.status, absent.body)
    assert is_problem(await service.send("DELETE", f"{PATH}/home", buyer="buyer-2"), 404, "not_found")
    await service.send("PUT", f"{PATH}/home", WORK, buyer="buyer-2")
    assert (await service.get(f"{PATH}/home")).json["address"] == HOME["address"]
    assert await listed(service, buyer="buyer-3") == []


async def test_a_full_book_says_so_and_takes_changes(service: Service) -> None:
    for address_id in "abc":
        await service.send("PUT", f"{PATH}/{address_id}", HOME)
    for answered in (await service.send("POST", PATH, HOME), await service.send("PUT", f"{PATH}/d", HOME)):
        assert is_problem(answered, 409, "limit_reached")
        assert "3 addresses" in answered.json["detail"]
    assert (await service.send("PUT", f"{PATH}/c", WORK)).status == 200


@pytest.mark.parametrize(
    ("wrong", "pointers"),
    [
        ({"contact_name": ""}, ["#/contact_name"]),
        ({"phone": "call me", "address": ""}, ["#/address", "#/phone"]),
        ({"default": "yes"}, ["#/default"]),
        ({"color": "red"}, ["#/color"]),
        ({"address": "\x00"}, ["#/address"]),
        ({"address": "a" * 501}, ["#/address"]),
    ],
)
async def test_every_wrong_field_is_named(
    service: Service, wrong: dict[str, Any], pointers: list[str]
) -> None:
    for method, path in (("POST", PATH), ("PUT", f"{PATH}/home")):
        answered = await service.send(method, path, {**HOME, **wrong})
        assert is_problem(answered, 422, "invalid")
        assert sorted(error["pointer"] for error in answered.json["errors"]) == pointers
    assert await listed(service) == []


async def test_missing_fields_are_named(service: Service) -> None:
    answered = await service.send("POST", PATH, {})
    assert {error["pointer"] for error in answered.json["errors"]} == {f"#/{name}" for name in HOME}


@pytest.mark.parametrize("address_id", ["a" * 65, "a b", "a.b", "ä", "%00", "home\n"])
async def test_an_id_that_is_none_is_named_or_not_there(service: Service, address_id: str) -> None:
    path = f"{PATH}/{address_id}"
    answered = await service.send("PUT", path, HOME)
    assert is_problem(answered, 422, "invalid")
    assert answered.json["errors"][0]["parameter"] == "address_id"
    assert is_problem(await service.get(path), 404, "not_found")
    assert is_problem(await service.send("DELETE", path), 404, "not_found")


async def test_what_is_no_json_or_too_much_is_refused(service: Service) -> None:
    assert is_problem(await service.send("POST", PATH, "{"), 400, "malformed_json")
    assert is_problem(await service.send("POST", PATH, b"\xff"), 400, "malformed_json")
    text = await service.send("POST", PATH, HOME, media_type="text/plain")
    assert is_problem(text, 415, "unsupported_media_type")
    assert (
        await service.send("POST", PATH, HOME, media_type="Application/JSON; charset=utf-8")
    ).status == 201
    large = await service.send("POST", PATH, b" " * 1001)
    assert is_problem(large, 413, "content_too_large")
    assert large.headers["connection"] == "close"


async def test_a_token_is_needed(service: Service) -> None:
    for method, path in (
        ("GET", PATH), ("POST", PATH), ("GET", f"{PATH}/a"), ("PUT", f"{PATH}/a"), ("DELETE", f"{PATH}/a")
    ):  # fmt: skip
        content = HOME if method in {"POST", "PUT"} else None
        assert is_problem(await service.send(method, path, content, buyer=None), 401, "unauthorized")
    assert await listed(service) == []


async def test_a_server_away_is_503_that_says_what_may_have_happened(service: Service) -> None:
    service.book.available = False
    read = await service.get(PATH)
    assert is_problem(read, 503, "unavailable")
    assert "nothing was changed" in read.json["detail"]
    for method in ("PUT", "DELETE"):
        content = HOME if method == "PUT" else None
        answered = await service.send(method, f"{PATH}/home", content)
        assert is_problem(answered, 503, "unavailable")
        assert answered.headers["retry-after"] == "1"
        assert "not known" in answered.json["detail"]


async def test_other_methods_are_named_as_not_allowed(service: Service) -> None:
    for path, allowed in ((PATH, {"GET", "HEAD", "POST"}), (f"{PATH}/a", {"GET", "HEAD", "PUT", "DELETE"})):
        answered = await service.send("PATCH", path)
        assert is_problem(answered, 405, "method_not_allowed")
        assert set(answered.headers["allow"].split(", ")) == allowed
    assert (await service.send("HEAD", PATH)).status == 200


async def test_the_documented_example_is_taken_and_given_back(service: Service) -> None:
    answered = await service.send("PUT", f"{PATH}/home", ADDRESS_REQUEST)
    view = msgspec.json.decode(answered.body, type=AddressView)
    assert msgspec.to_builtins(view) == {"address_id": "home", **ADDRESS_REQUEST}
