"""All that is stored of one buyer: found, given out, and replaced by a name that leads nowhere."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import orjson

from contracts.outcomes import Kind
from contracts.slices import product_of
from stock_ledger.commands.book import Told
from stock_ledger.retention import ENDED

ERASED = {"contact_name": "erased", "phone": "000", "address": "erased"}
_EMPTIED = frozenset({"note", "why", "tracking", "carrier"})

TABLES = ("orders", "order_items", "payments", "decisions", "commands", "holds", "gatherings", "refunds")
LIVE = {name: name for name in TABLES}

# Where a table is named in braces, it may be one read back from an archive. $1 buyer
ORDERS = "SELECT * FROM {orders} WHERE buyer_id = $1 ORDER BY order_id"
DECISIONS = 'SELECT * FROM {decisions} WHERE buyer_id = $1 ORDER BY decided_at, partition, "offset"'
HOLDS = "SELECT * FROM {holds} WHERE buyer_id = $1 ORDER BY checkout_id, product_id"
ITEMS = "SELECT i.* FROM {order_items} AS i JOIN {orders} AS o USING (order_id) WHERE o.buyer_id = $1 ORDER BY order_id, line"
PAYMENTS = "SELECT p.* FROM {payments} AS p JOIN {orders} AS o USING (order_id) WHERE o.buyer_id = $1 ORDER BY order_id"
REFUNDS = "SELECT r.* FROM {refunds} AS r JOIN {orders} AS o USING (order_id) WHERE o.buyer_id = $1 ORDER BY order_id"
# $1 buyer, $2 ids of the buyer's orders and checkouts
COMMANDS = """
SELECT * FROM {commands} WHERE subject = ANY($2) OR actor = 'buyer:' || $1 OR document ->> 'buyer_id' = $1
ORDER BY decided_at, partition, "offset"
"""
GATHERINGS = "SELECT * FROM {gatherings} WHERE checkout_id::text = ANY($2) OR answers -> 0 ->> 'buyer_id' = $1 ORDER BY checkout_id"
ADDRESSES = "SELECT * FROM addresses WHERE buyer_id = $1 ORDER BY added_at"
CART = "SELECT * FROM carts WHERE buyer_id = $1 ORDER BY added_at"
PURCHASES = "SELECT * FROM purchases WHERE buyer_id = $1 ORDER BY product_id"

# Orders of the buyer that have not ended, or whose money has not, units held, and lines that no slice has decided yet: what
# is stored of those may still have to be sent on. $1 buyer
OPEN = """
SELECT 'order ' || order_id || ', ' || o.status FROM orders AS o JOIN payments AS pay USING (order_id)
WHERE o.buyer_id = $1 AND (""" + ENDED + """) IS NOT TRUE
UNION ALL SELECT 'checkout ' || checkout_id || ', held' FROM holds WHERE buyer_id = $1 AND state IN ('held', 'pending')
UNION ALL SELECT DISTINCT 'checkout ' || sent.checkout_id || ', on its way to another slice' FROM decisions AS sent
WHERE sent.buyer_id = $1 AND sent.kind = 'forwarded' AND NOT EXISTS (
    SELECT FROM decisions AS d WHERE d.checkout_id = sent.checkout_id
    AND split_part(d.product_id, '~', 1) = split_part(sent.product_id, '~', 1)
    AND (d.kind IN ('created', 'held', 'refused') OR d.kind = 'conflict' AND d.payload_hash = sent.payload_hash))
"""  # fmt: skip # noqa: S608 - constants alone

# $1 buyer, $2 pseudonym
_PERSON = "SET buyer_id = $2, contact_name = 'erased', phone = '000', address = 'erased', note = '' WHERE buyer_id = $1"
REPLACE = {
    "orders": "UPDATE {orders} " + _PERSON,
    "holds": "UPDATE {holds} " + _PERSON,
    "decisions": "UPDATE {decisions} SET buyer_id = $2 WHERE buyer_id = $1",
}
REPLACE_PURCHASES = "UPDATE purchases SET buyer_id = $2 WHERE buyer_id = $1"
REMOVE = {
    "addresses": "DELETE FROM addresses WHERE buyer_id = $1",
    "carts": "DELETE FROM carts WHERE buyer_id = $1",
}
PUT_COMMAND = (
    'UPDATE {commands} SET actor = $3, document = $4, told = $5 WHERE partition = $1 AND "offset" = $2'
)
# A line that was sent on to another slice is kept as it was sent.
PUT_FORWARDED = 'UPDATE {decisions} SET detail = $3 WHERE partition = $1 AND "offset" = $2'
PUT_GATHERING = "UPDATE {gatherings} SET answers = $2 WHERE checkout_id = $1"
PUT_ERASURE = "INSERT INTO erasures (pseudonym, erased_at) VALUES ($1, now())"

_told = msgspec.json.Decoder(Told)
_encode = msgspec.json.Encoder().encode
Row = dict[str, Any]


class BuyerRows(msgspec.Struct):
    """Rows that are about a buyer, by table."""

    rows: dict[str, list[Row]]

    def ids(self) -> list[str]:
        """Of the buyer's orders and checkouts."""
        return ids_of(self.rows)

    def checkouts(self) -> list[str]:
        rows = (*self.rows["orders"], *self.rows["decisions"], *self.rows["holds"])
        return sorted({str(row["checkout_id"]) for row in rows if row["checkout_id"] is not None})

    def counts(self) -> dict[str, int]:
        return {table: len(rows) for table, rows in self.rows.items() if rows}


def ids_of(rows: Mapping[str, Iterable[Row]]) -> list[str]:
    names = ("order_id", "checkout_id")
    found = {str(row[n]) for table in rows.values() for row in table for n in names if row.get(n) is not None}
    return sorted(found)


async def find(
    connection: Any, buyer_id: str, names: Mapping[str, str] = LIVE, elsewhere: Iterable[str] = ()
) -> BuyerRows:
    """Everything that `names`, by table, hold of the buyer; of the live tables also what only these have.

    `elsewhere` are ids of the buyer's orders and checkouts that other tables than these hold: what was told of an order
    may lie in a later period than the order.
    """

    async def rows(query: str, *more: Any) -> list[Row]:
        return [dict(row) for row in await connection.fetch(query.format(**names), buyer_id, *more)]

    own = {"orders": await rows(ORDERS), "decisions": await rows(DECISIONS), "holds": await rows(HOLDS)}
    ids = sorted({*ids_of(own), *elsewhere})
    found = {
        **own,
        "order_items": await rows(ITEMS),
        "payments": await rows(PAYMENTS),
        "refunds": await rows(REFUNDS),
        "commands": await rows(COMMANDS, ids),
        "gatherings": await rows(GATHERINGS, ids),
    }
    if names is LIVE:
        found |= {
            "addresses": await rows(ADDRESSES),
            "carts": await rows(CART),
            "purchases": await rows(PURCHASES),
        }
    return BuyerRows(found)


def document_of(rows: Mapping[str, list[Row]]) -> dict[str, Any]:
    """The rows as JSON can hold them; what a command told is spelled out."""
    document: dict[str, Any] = _of_products(
        {table: [_spelled(row) for row in of] for table, of in rows.items()}
    )
    return document


def _spelled(row: Row) -> dict[str, Any]:
    spelled: dict[str, Any] = {}
    for name, value in row.items():
        if name in ("document", "answers") and value is not None:
            spelled[name] = orjson.loads(value)
        elif name == "told":
            told = _told.decode(value)
            spelled[name] = {
                "events": [_json_of(body) for _, body, _ in told.events],
                "results": [_json_of(body) for _, _, body in told.results],
            }
        else:
            spelled[name] = value
    return spelled


def _of_products(document: Any) -> Any:
    """What is stored of slices, as of the products that they are of."""
    if isinstance(document, list):
        return [_of_products(part) for part in document]
    if isinstance(document, dict):
        return {
            name: product_of(value) if name == "product_id" else _of_products(value)
            for name, value in document.items()
        }
    return document


def _json_of(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")


async def replace(
    connection: Any, buyer_id: str, pseudonym: str, found: BuyerRows, names: Mapping[str, str] = LIVE
) -> None:
    """Put the pseudonym in place of the buyer, and nothing in place of what is about the person. In the caller's
    transaction.
    """
    for query in REPLACE.values():
        await connection.execute(query.format(**names), buyer_id, pseudonym)
    await connection.executemany(
        PUT_COMMAND.format(**names),
        [_command_without(row, buyer_id, pseudonym) for row in found.rows["commands"]],
    )
    await connection.executemany(
        PUT_FORWARDED.format(**names),
        [
            (row["partition"], row["offset"], _text_without(row["detail"], buyer_id, pseudonym))
            for row in found.rows["decisions"]
            if row["kind"] == Kind.FORWARDED
        ],
    )
    await connection.executemany(
        PUT_GATHERING.format(**names),
        [
            (row["checkout_id"], _text_without(row["answers"], buyer_id, pseudonym))
            for row in found.rows["gatherings"]
        ],
    )
    if names is LIVE:
        await connection.execute(REPLACE_PURCHASES, buyer_id, pseudonym)
        for query in REMOVE.values():
            await connection.execute(query, buyer_id)
        await connection.execute(PUT_ERASURE, pseudonym)


def _command_without(row: Row, buyer_id: str, pseudonym: str) -> tuple[Any, ...]:
    told = _told.decode(row["told"])
    kept = Told(
        events=[
            (key, _bytes_without(body, buyer_id, pseudonym), headers) for key, body, headers in told.events
        ],
        commands=[(p, key, _bytes_without(body, buyer_id, pseudonym)) for p, key, body in told.commands],
        results=[(c, f, _bytes_without(body, buyer_id, pseudonym)) for c, f, body in told.results],
    )
    actor = without({"actor": row["actor"]}, buyer_id, pseudonym)["actor"]
    document = None if row["document"] is None else _text_without(row["document"], buyer_id, pseudonym)
    return row["partition"], row["offset"], actor, document, _encode(kept)


def _text_without(text: str, buyer_id: str, pseudonym: str) -> str:
    return orjson.dumps(without(orjson.loads(text), buyer_id, pseudonym)).decode()


def _bytes_without(body: bytes, buyer_id: str, pseudonym: str) -> bytes:
    try:
        return orjson.dumps(without(orjson.loads(body), buyer_id, pseudonym))
    except orjson.JSONDecodeError:
        return body


def without(document: Any, buyer_id: str, pseudonym: str) -> Any:
    """A document that is about the buyer, as it reads without the person."""
    if isinstance(document, list):
        return [without(part, buyer_id, pseudonym) for part in document]
    if not isinstance(document, dict):
        return document
    return {name: _value_without(name, value, buyer_id, pseudonym) for name, value in document.items()}


def _value_without(name: str, value: Any, buyer_id: str, pseudonym: str) -> Any:
    if not isinstance(value, str):
        return without(value, buyer_id, pseudonym)
    if name in ERASED:
        return ERASED[name]
    if name in _EMPTIED:
        return ""
    return {buyer_id: pseudonym, f"buyer:{buyer_id}": f"buyer:{pseudonym}"}.get(value, value)
