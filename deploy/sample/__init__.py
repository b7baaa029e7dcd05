"""The sample catalogue and address book that `up` and `demo` sell from, as files."""

from pathlib import Path

import msgspec

from stock_ledger.catalogue import AddressEntry, ProductEntry, read_addresses, read_products

HOT_PRODUCT = "hot-phone-15"
UNKNOWN_PRODUCT = "no-such-thing"

_FOLDER = Path(__file__).parent


def products(count: int, hot_stock: int) -> list[ProductEntry]:
    """The hot product with `hot_stock` units, `count` others (copies of the sample's once those run out), and the
    off-shelf ones.
    """
    entries = read_products((_FOLDER / "products.ndjson").read_bytes())
    hot = [msgspec.structs.replace(e, stock=hot_stock) for e in entries if e.product_id == HOT_PRODUCT]
    off_shelf = [e for e in entries if not e.on_shelf]
    ordinary = [e for e in entries if e.on_shelf and e.product_id != HOT_PRODUCT]
    others = [
        msgspec.structs.replace(ordinary[i % len(ordinary)], product_id=f"sku-{i + 1:04d}")
        for i in range(count)
    ]
    return hot + others + off_shelf


def addresses(buyers: int) -> list[AddressEntry]:
    """A home address for each of `buyers` buyers, buyer-00001 and on."""
    entries = read_addresses((_FOLDER / "addresses.ndjson").read_bytes())
    return [
        msgspec.structs.replace(entries[i % len(entries)], buyer_id=buyer_id(i + 1)) for i in range(buyers)
    ]


def buyer_id(number: int) -> str:
    return f"buyer-{number:05d}"
