"""Catalogue files: products as CSV (RFC 4180) or NDJSON, read with every error of every line, and written. No I/O."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NoReturn, get_args

import msgspec
import orjson

from contracts import problems
from contracts.asks import ProductLine
from contracts.bodies import Body
from contracts.commands import PutProduct, ends_before_it_begins
from contracts.problems import Problem
from stock_ledger.commands.reads import Shelf

Format = Literal["csv", "ndjson"]
FORMATS: tuple[Format, ...] = get_args(Format)
MEDIA_TYPES: dict[str, Format] = {
    "text/csv": "csv", "application/x-ndjson": "ndjson", "application/ndjson": "ndjson",
}  # fmt: skip
ERRORS_MAX = 100  # told of one file
WRONG_WINDOW = "sale_to must be later than sale_from"
NO_PRODUCTS = ("export", "import")  # what stands at their place is the catalogue as a file
NO_PRODUCT = "export and import are no product ids"

_COLUMNS = ("product_id", *(name for name in ProductLine.__struct_fields__ if name != "product_id"))
_NUMBERS = ("buyer_limit", "payment_ttl_s", "stock", "slices")
_WHOLE = re.compile(r"-?[0-9]{1,18}\Z")
_BOOLEANS = {"true": True, "false": False}
_body = Body(ProductLine)
_NOBODY = {"command_id": "", "actor": "", "asked_at_ms": 0}

Wrong = dict[str, str | int]  # line, from 1; detail; field, where it is of one
Row = tuple[int, bytes]  # line and its JSON


def read(content: bytes, kind: Format, lines_max: int) -> list[ProductLine]:
    """The products of a file. Raises Problem 422 with the errors of all lines, by line and field, up to ERRORS_MAX."""
    wrong: list[Wrong] = []
    products: list[ProductLine] = []
    first_at: dict[str, int] = {}
    for number, document in _rows(content, kind, wrong):
        if len(wrong) >= ERRORS_MAX:
            break
        product = _parse(number, document, wrong)
        if product is None:
            continue
        first = first_at.setdefault(product.product_id, number)
        if first != number:
            wrong.append({"line": number, "field": "product_id", "detail": f"also in line {first}"})
        products.append(product)
        if len(products) > lines_max:
            _refuse([{"line": number, "detail": f"a file has at most {lines_max} products; split it"}])
    if wrong:
        _refuse(wrong)
    if not products:
        _refuse([{"line": 1, "detail": "there is no product in it"}])
    return products


def command_of(product: ProductLine, base: dict[str, Any]) -> PutProduct:
    """What a line asks for. `base` is what all commands have."""
    return PutProduct(**base, **msgspec.structs.asdict(product))


def write(shelves: Sequence[Shelf], kind: Format, *, head: bool) -> bytes:
    """Products as a part of a file that `read` takes; `head` says whether it is the first part.

    `stock` is what is available: what could be sold, were the products put into another catalogue.
    """
    lines = [_line_of(shelf) for shelf in shelves]
    if kind == "ndjson":
        return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    text = io.StringIO()
    writer = csv.writer(text)
    if head:
        writer.writerow(_COLUMNS)
    for line in lines:
        values: dict[str, Any] = msgspec.to_builtins(line)
        writer.writerow([_cell(values[name]) for name in _COLUMNS])
    return text.getvalue().encode()


def _rows(content: bytes, kind: Format, wrong: list[Wrong]) -> Iterator[Row]:
    if kind == "ndjson":
        for number, line in enumerate(content.split(b"\n"), 1):
            if line.strip():
                yield number, line
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = content.count(b"\n", 0, error.start) + 1
        _refuse([{"line": at, "detail": f"it is not UTF-8: {error.reason}"}])
    yield from _csv_rows(text, wrong)


def _csv_rows(text: str, wrong: list[Wrong]) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    cells = _records(reader, wrong)
    _, head = next(cells, (1, []))
    if bad := _wrong_head(head):
        _refuse(bad)
    for number, row in cells:
        if len(row) != len(head):
            wrong.append({"line": number, "detail": f"{len(row)} values, the first line has {len(head)}"})
            if len(wrong) >= ERRORS_MAX:
                return
            continue
        given = {name: _value(name, cell) for name, cell in zip(head, row, strict=True) if cell}
        yield number, orjson.dumps(given)


def _records(reader: Any, wrong: list[Wrong]) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not empty, with the line it begins in; a quoted value may go over several."""
    begins = 1
    try:
        for row in reader:
            if row:
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        wrong.append({"line": begins, "detail": f"it is not CSV from here on: {error}"})


def _wrong_head(head: list[str]) -> list[Wrong]:
    told: list[tuple[str, str]] = [(name, "unknown column") for name in head if name not in _COLUMNS]
    told += [(name, "the column is there twice") for name in _COLUMNS if head.count(name) > 1]
    required = [field.encode_name for field in msgspec.structs.fields(ProductLine) if field.required]
    told += [(name, "this column is required") for name in required if name not in head]
    return [{"line": 1, "field": name, "detail": detail} for name, detail in told]


def _value(name: str, cell: str) -> object:
    """The cell as JSON has it; what cannot be is left as text, for the schema to refuse."""
    if name in _NUMBERS and _WHOLE.match(cell):
        return int(cell)
    return _BOOLEANS.get(cell.lower(), cell) if name == "on_shelf" else cell


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value


def _parse(number: int, document: bytes, wrong: list[Wrong]) -> ProductLine | None:
    try:
        product = _body.parse(document)
    except Problem as problem:
        for error in problem.errors or [{"detail": problem.detail, "pointer": ""}]:
            told: Wrong = {"line": number, "detail": error["detail"]}
            if field := error["pointer"].removeprefix("#").removeprefix("/"):
                told["field"] = field
            wrong.append(told)
        return None
    if unreadable := command_of(product, _NOBODY).wrong():
        wrong.append({"line": number, "field": unreadable.field, "detail": unreadable.detail})
    if ends_before_it_begins(product.sale_from, product.sale_to):
        wrong.append({"line": number, "field": "sale_to", "detail": WRONG_WINDOW})
    if product.product_id in NO_PRODUCTS:
        wrong.append({"line": number, "field": "product_id", "detail": NO_PRODUCT})
    return product


def _refuse(wrong: list[Wrong]) -> NoReturn:
    more = "" if len(wrong) < ERRORS_MAX else "; there may be more wrong behind these"
    detail = f"correct the lines named in errors{more}; nothing was taken in"
    raise Problem(problems.INVALID, detail, errors=wrong[:ERRORS_MAX])


def _line_of(shelf: Shelf) -> ProductLine:
    p = shelf.product
    return ProductLine(
        product_id=p.product_id,
        name=p.name,
        price=f"{p.price:f}",
        currency=p.currency,
        cover=p.cover,
        sale_price=None if p.sale_price is None else f"{p.sale_price:f}",
        on_shelf=p.on_shelf,
        buyer_limit=p.buyer_limit,
        payment_ttl_s=p.payment_ttl_s,
        sale_from=p.sale_from,
        sale_to=p.sale_to,
        stock_source=p.stock_source,
        stock=shelf.available(),
        slices=p.slices,
    )
