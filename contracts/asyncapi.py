"""The events topic as one AsyncAPI 3.0 document, made from the types of the events' data.

Source: AsyncAPI 3.0.0 and its Kafka bindings 0.5.0; CloudEvents 1.0, Kafka protocol binding, binary mode.
"""

from functools import cache
from typing import Any

import msgspec
import orjson

from contracts import asyncapi_examples as examples
from contracts.event_data import KINDS, Kind
from contracts.events import SOURCE
from contracts.http import JSON, Answer, Page
from contracts.messages import UUID_PATTERN
from contracts.openapi import VERSION, for_documents
from contracts.outcomes import Reason

_REF = "#/components/schemas/{name}"
_BINDING = "0.5.0"


@cache
def document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document. Patterns are ECMA-262. Shared: do not change it."""
    types = {data.__name__: data for kind in KINDS.values() for data in kind.data}
    _, schemas = msgspec.json.schema_components(list(types.values()), ref_template=_REF)
    schemas["Reason"]["enum"] = [reason.value for reason in Reason]  # in their order of precedence
    whole = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Sluiceway events",
            "version": VERSION,
            "description": "What was decided, in CloudEvents 1.0. Delivery is at least once: drop what you have seen by "
            "`ce_id`. The events of an order come in the order of `ce_sequence`, from 1 without gaps.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": {
                "address": "{prefix}.events",
                "description": "An event lies in the partition of the same number as the message that it comes from.",
                "parameters": {"prefix": {"default": "sluiceway", "description": "SLUICEWAY_TOPIC_PREFIX"}},
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in KINDS},
                "bindings": {"kafka": {"bindingVersion": _BINDING}},
            }
        },
        "operations": {
            "tellWhatWasDecided": {
                "action": "send",
                "channel": {"$ref": "#/channels/events"},
                "summary": "Sluiceway tells what it has decided.",
            }
        },
        "components": {
            "messages": {name: _message(name, kind) for name, kind in KINDS.items()},
            "schemas": dict(sorted(schemas.items())),
        },
    }
    made: dict[str, Any] = for_documents(whole)
    return made


def pages() -> dict[str, Page]:
    """/asyncapi.json."""

    async def asyncapi_json() -> Answer:
        return Answer(200, [JSON, ("cache-control", "no-cache")], _document_json())

    return {"/asyncapi.json": asyncapi_json}


@cache
def _document_json() -> bytes:
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2)


def _message(name: str, kind: Kind) -> dict[str, Any]:
    refs = [{"$ref": _REF.format(name=data.__name__)} for data in kind.data]
    return {
        "name": name,
        "summary": kind.summary,
        "contentType": "application/json",
        "headers": _headers(name, kind),
        "payload": refs[0] if len(refs) == 1 else {"oneOf": refs},
        "bindings": {"kafka": {"key": _subject(kind), "bindingVersion": _BINDING}},
        "examples": examples.OF[name],
    }


def _headers(name: str, kind: Kind) -> dict[str, Any]:
    """As text: header values are UTF-8."""
    text = {"type": "string"}
    properties = {
        "ce_specversion": {"const": "1.0"},
        "ce_type": {"const": name},
        "ce_source": {"const": SOURCE},
        "ce_id": {**text, "description": "The same however often the event is published."},
        "ce_time": {**text, "format": "date-time"},
        "ce_subject": {**_subject(kind), "description": f"The {kind.subject}'s id, also the record's key."},
        "content-type": {"const": "application/json"},
    }
    if kind.subject == "order":
        properties["ce_sequence"] = {
            **text,
            "pattern": "^[1-9][0-9]*$",
            "description": "Of the order's events.",
        }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _subject(kind: Kind) -> dict[str, Any]:
    return {
        "type": "string",
        "pattern": r"^[A-Za-z0-9_-]{1,64}\Z" if kind.subject == "product" else UUID_PATTERN,
    }
