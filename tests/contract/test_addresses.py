"""What every address book must do, in memory and in Postgres."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from contracts.errors import Unavailable
from contracts.messages import Shipping
from contracts.settings import Settings
from stock_ledger.addresses import Address, AddressBook, PostgresAddressBook, StoredAddress
from stock_ledger.buyer_fakes import MemoryAddressBook
from stock_ledger.pool import connect_pool
from tests.contract.adapters import memory_or
from tests.harness import HOME, NOON

WORK = Shipping("Li Lei", "+86 138 0000 0001", "2 Short Street, Hangzhou")
BUYER = "buyer-1"

book_settings = memory_or("postgres", "database_settings")


@pytest.fixture
async def book(book_settings: Settings | None) -> AsyncIterator[AddressBook]:
    if book_settings is None:
        yield MemoryAddressBook()
        return
    pool = await connect_pool(book_settings)
    try:
        yield PostgresAddressBook(pool)
    finally:
        await pool.close()


async def put(
    book: AddressBook,
    address_id: str,
    shipping: Shipping = HOME,
    *,
    second: int = 0,
    buyer_id: str = BUYER,
    as_default: bool = False,
    addresses_max: int = 10,
) -> StoredAddress | None:
    now = NOON + timedelta(seconds=second)
    return await book.put(
        buyer_id, address_id, shipping, now, as_default=as_default, addresses_max=addresses_max
    )


async def ids(book: AddressBook, buyer_id: str = BUYER) -> list[str]:
    """The ids, the default's first."""
    addresses = await book.addresses(buyer_id)
    assert [address.is_default for address in addresses] == [n == 0 for n in range(len(addresses))]
    return [address.address_id for address in addresses]


async def test_the_first_address_is_the_default_and_others_come_after_it(book: AddressBook) -> None:
    assert await put(book, "z") == StoredAddress(Address("z", HOME, is_default=True), is_new=True)
    assert await put(book, "b", WORK, second=1) == StoredAddress(
        Address("b", WORK, is_default=False), is_new=True
    )
    await put(book, "a", second=2)
    assert await ids(book) == ["z", "b", "a"]
    assert (await book.addresses(BUYER))[1].shipping == WORK
    assert await ids(book, "buyer-2") == []


async def test_an_address_is_replaced_and_stays_the_default(book: AddressBook) -> None:
    await put(book, "home")
    await put(book, "work", second=1)
    changed = await put(book, "home", WORK, second=2)
    assert changed == StoredAddress(Address("home", WORK, is_default=True), is_new=False)
    assert await ids(book) == ["home", "work"]
    await put(book, "work", WORK, second=3)
    assert await ids(book) == ["home", "work"]


async def test_the_default_is_the_one_that_was_last_made_it(book: AddressBook) -> None:
    await put(book, "home")
    await put(book, "work", second=1, as_default=True)
    assert await ids(book) == ["work", "home"]
    made = await put(book, "home", second=2, as_default=True)
    assert made == StoredAddress(Address("home", HOME, is_default=True), is_new=False)
    await put(book, "aunt", second=3)
    assert await ids(book) == ["home", "work", "aunt"]


async def test_behind_a_default_that_is_removed_stands_the_one_before_then_the_oldest(
    book: AddressBook,
) -> None:
    for second, address_id in enumerate(("b", "a", "c", "d")):
        await put(book, address_id, second=second)
    await put(book, "c", as_default=True)
    assert await book.remove(BUYER, "c") is True
    assert await ids(book) == ["b", "a", "d"]
    assert await book.remove(BUYER, "b") is True
    assert await ids(book) == ["a", "d"]
    assert await book.remove(BUYER, "b") is False
    assert await book.remove("buyer-2", "a") is False
    assert await ids(book) == ["a", "d"]
    for address_id in ("a", "d"):
        await book.remove(BUYER, address_id)
    assert await put(book, "new") == StoredAddress(Address("new", HOME, is_default=True), is_new=True)


async def test_a_full_book_takes_changes_but_no_more_addresses(book: AddressBook) -> None:
    for address_id in ("a", "b"):
        await put(book, address_id, addresses_max=2)
    assert await put(book, "c", addresses_max=2, as_default=True) is None
    assert await ids(book) == ["a", "b"]
    assert await put(book, "b", WORK, addresses_max=2, as_default=True) is not None
    assert await put(book, "b", WORK, addresses_max=1) is not None
    assert await put(book, "c", buyer_id="buyer-2", addresses_max=2) is not None
    await book.remove(BUYER, "a")
    assert await put(book, "c", addresses_max=2) is not None


async def test_calls_at_the_same_time_do_not_exceed_the_limit(book: AddressBook) -> None:
    stored = await asyncio.gather(*(put(book, f"a{n}", addresses_max=3, as_default=True) for n in range(8)))
    assert len([address for address in stored if address is not None]) == 3
    assert len(await ids(book)) == 3


async def test_whatever_comes_ends_as_in_memory(book: AddressBook) -> None:
    model = MemoryAddressBook()
    choose = random.Random(7)  # noqa: S311 - the same sequence every time
    for second in range(80):
        address_id = choose.choice("abcde")
        if choose.random() < 0.4:
            assert await book.remove(BUYER, address_id) == await model.remove(BUYER, address_id)
        else:
            shipping, as_default = choose.choice((HOME, WORK)), choose.random() < 0.3
            how = {"second": second, "as_default": as_default, "addresses_max": 4}
            assert await put(book, address_id, shipping, **how) == await put(  # type: ignore[arg-type]
                model, address_id, shipping, **how  # type: ignore[arg-type]
            )  # fmt: skip
        assert await book.addresses(BUYER) == await model.addresses(BUYER)


async def test_an_address_book_that_is_away_says_so(offline_settings: Settings) -> None:
    pool = await connect_pool(offline_settings)
    memory = MemoryAddressBook()
    memory.available = False
    for book in (PostgresAddressBook(pool), memory):
        with pytest.raises(Unavailable):
            await book.addresses(BUYER)
        with pytest.raises(Unavailable):
            await put(book, "a")
        with pytest.raises(Unavailable):
            await book.remove(BUYER, "a")
    await pool.close()
