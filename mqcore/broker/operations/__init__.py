"""Administrative operations: what a ``call`` may ask of a broker, by name; one file a subject.

The classes of requests and results are ``mqcore.operations``; here is who carries them out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mqcore.broker.operations._needs import NEEDS, check_allowed
from mqcore.broker.operations._scope import AdminScope
from mqcore.broker.operations.groups import delete_group, describe_group, list_groups, reset_group
from mqcore.broker.operations.node import broker_status, operate, reload_broker
from mqcore.broker.operations.offsets import look_up_offset
from mqcore.broker.operations.producers import (
    claim_producer,
    delete_producer,
    describe_producer,
    end_producer,
    list_producers,
)
from mqcore.broker.operations.quarantine import delete_quarantined, list_quarantined, show_quarantined
from mqcore.broker.operations.retention import confirm_clock
from mqcore.broker.operations.sets import (
    add_replica,
    cap_copies,
    demote_node,
    describe_set,
    describe_state,
    fetch_batch,
    fetch_suffix,
    init_set,
    list_replicas,
    promote_node,
    recover_set,
    remove_replica,
    switch_over,
)
from mqcore.broker.operations.topics import (
    alter_topic,
    create_topic,
    delete_topic,
    describe_topic,
    list_topics,
    place_topics,
    resolve_topic,
)
from mqcore.errors import RejectedError
from mqcore.operations import REQUESTS, from_arguments, to_json
from mqcore.protocol import Code

__all__ = ["HANDLERS", "NEEDS", "AdminScope", "carry_out"]

HANDLERS: dict[str, Callable[[AdminScope, Any], Awaitable[object]]] = {
    "broker.reload": reload_broker,
    "broker.status": broker_status,
    "group.delete": delete_group,
    "group.describe": describe_group,
    "group.list": list_groups,
    "group.reset": reset_group,
    "offsets.lookup": look_up_offset,
    "operate": operate,
    "producer.claim": claim_producer,
    "producer.delete": delete_producer,
    "producer.describe": describe_producer,
    "producer.end": end_producer,
    "producer.list": list_producers,
    "quarantine.delete": delete_quarantined,
    "quarantine.list": list_quarantined,
    "quarantine.show": show_quarantined,
    "replica.add": add_replica,
    "replica.list": list_replicas,
    "replica.remove": remove_replica,
    "retention.confirm": confirm_clock,
    "set.cap": cap_copies,
    "set.demote": demote_node,
    "set.describe": describe_set,
    "set.batch": fetch_batch,
    "set.fetch": fetch_suffix,
    "set.init": init_set,
    "set.promote": promote_node,
    "set.recover": recover_set,
    "set.state": describe_state,
    "set.switchover": switch_over,
    "topic.alter": alter_topic,
    "topic.create": create_topic,
    "topic.delete": delete_topic,
    "topic.describe": describe_topic,
    "topic.list": list_topics,
    "topic.place": place_topics,
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
    check_allowed(scope, operation, request)
    return to_json(await handler(scope, request))


def _rejected(code: Code, text: str) -> RejectedError:
    return RejectedError(text, code=code, name=code.label, retryable=code.retryable)
