"""All Redis keys. A `{pN}` hash tag keeps what one writer shows together on one cluster node."""


class Keys:
    """Key names under the configured prefix.

    | key | type | value |
    |---|---|---|
    | progress | string | "epoch:next_offset:decided_per_s:beat" of the partition |
    | stock | string | "epoch:seq:available" of the stock id |
    | product | string | catalogue entry as JSON |
    | gate | set | the partition's stock ids without stock; "product id#slices" of products of which more than one sells |
    | result | hash | product id → line decision as JSON; "#partition:offset" → an idempotency conflict; "=" → all lines |
    | payload | string | hash of the payload last seen under this checkout id |
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def progress(self, partition: int) -> str:
        return f"{self.prefix}progress:{{p{partition}}}"

    def stock(self, partition: int, stock_id: str) -> str:
        return f"{self.prefix}stock:{{p{partition}}}:{stock_id}"

    def product(self, partition: int, stock_id: str) -> str:
        return f"{self.prefix}product:{{p{partition}}}:{stock_id}"

    def gate(self, partition: int) -> str:
        return f"{self.prefix}gate:{{p{partition}}}"

    def result(self, checkout_id: str) -> str:
        return f"{self.prefix}result:{checkout_id}"

    def payload(self, checkout_id: str) -> str:
        return f"{self.prefix}payload:{checkout_id}"


def conflict_field(partition: int, offset: int) -> str:
    """Field of a result hash that holds the refusal of one conflicting message."""
    return f"#{partition}:{offset}"


def slices_member(product_id: str, slices: int) -> str:
    """Member of a gate that tells how many slices a product has. It is split once, so there is one."""
    return f"{product_id}#{slices}"


WHOLE = "="  # field of a result hash that holds the one answer to an all-or-nothing checkout
