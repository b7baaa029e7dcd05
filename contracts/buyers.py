"""What buyers keep between checkouts, as HTTP clients send and get it: addresses and a cart."""

from typing import Annotated

import msgspec

from contracts.messages import AddressText, Id, Moment, Name, Phone
from contracts.requests import Total


class AddressRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An address. With `default` it becomes the buyer's default; without, the default stays as it is."""

    contact_name: Name
    phone: Phone
    address: AddressText
    default: bool = False


class AddressView(msgspec.Struct, frozen=True):
    """An address of the buyer. A checkout that names its id is shipped there; its order keeps a copy."""

    address_id: Id
    contact_name: str
    phone: str
    address: str
    default: bool


class AddressList(msgspec.Struct, frozen=True):
    """All addresses of the buyer, the default first."""

    addresses: list[AddressView]


class CartRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many units of the product are to be in the cart, whatever was in it before."""

    quantity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class CartLineView(msgspec.Struct, frozen=True):
    """A line of the cart, with its product as it is now. Nothing is kept for the buyer before the checkout.

    `price` is what it sells for, from `sale_from` on and before `sale_to` where they are given; `available` units are
    left, for everybody.
    """

    product_id: Id
    quantity: int
    name: str
    cover: str
    price: Total
    on_shelf: bool
    sale_from: Moment | None
    sale_to: Moment | None
    available: int
    added_at: Moment
    updated_at: Moment


class CartView(msgspec.Struct, frozen=True):
    """The buyer's cart, what was added last first."""

    lines: list[CartLineView]
