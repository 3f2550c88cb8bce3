"""Administrative operations: what a ``call`` may ask of a broker, by name; one file a subject.

The classes of requests and results are ``mqcore.operations``; here is who carries them out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mqcore.broker.operations._scope import AdminScope
from mqcore.broker.operations.node import broker_status, operate
from mqcore.broker.operations.offsets import look_up_offset
from mqcore.broker.operations.topics import (
    alter_topic,
    create_topic,
    delete_topic,
    describe_topic,
    list_topics,
    resolve_topic,
)
from mqcore.errors import RejectedError
from mqcore.operations import REQUESTS, from_arguments, to_json
from mqcore.protocol import Code

__all__ = ["HANDLERS", "AdminScope", "carry_out"]

HANDLERS: dict[str, Callable[[AdminScope, Any], Awaitable[object]]] = {
    "broker.status": broker_status,
    "offsets.lookup": look_up_offset,
    "operate": operate,
    "topic.alter": alter_topic,
    "topic.create": create_topic,
    "topic.delete": delete_topic,
    "topic.describe": describe_topic,
    "topic.list": list_topics,
    "topic.resolve": resolve_topic,
}


async def carry_out(scope: AdminScope, operation: str, arguments: Mapping[str, Any]) -> object:
    """Carry out one call and return its result as JSON values. Raises ``MqcoreError``."""
    handler = HANDLERS.get(operation)
    if handler is None:
        text = f"unknown operation {operation!r}; known: {', '.join(sorted(HANDLERS))}"
        raise _rejected(Code.UNKNOWN_OPERATION, text)
    try:
        request = from_arguments(REQUESTS[operation], arguments)
    except ValueError as error:
        raise _rejected(Code.INVALID_REQUEST, str(error)) from None
    return to_json(await handler(scope, request))


def _rejected(code: Code, text: str) -> RejectedError:
    return RejectedError(text, code=code, name=code.label, retryable=code.retryable)
