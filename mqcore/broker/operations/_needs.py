"""What each administrative operation needs to be allowed: one table, looked at before anything is carried out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mqcore.abc import Operation
from mqcore.broker.operations._scope import AdminScope
from mqcore.operations import EndProducer, Operate

__all__ = ["NEEDS", "check_allowed"]

_CLUSTER = "cluster"
_QUARANTINE = "quarantine"
_Resource = str | Callable[[AdminScope, Any], str | None]


def _topic(scope: AdminScope, request: Any) -> str:
    return f"topic:{request.name}"


def _group(scope: AdminScope, request: Any) -> str:
    return f"group:{request.name}"


def _producer(scope: AdminScope, request: Any) -> str:
    return f"producer:{request.name}"


def _read_topic(scope: AdminScope, request: Any) -> str:
    return f"topic:{request.topic}"


def _topic_of_producer(scope: AdminScope, request: EndProducer) -> str | None:
    # Of a topic that is not known here there is nothing to protect: the operation says that it is not.
    name = scope.topic_name(request.topic_id)
    return f"topic:{name}" if name else None


def _part(scope: AdminScope, request: Operate) -> str:
    return f"part:{request.part}"


NEEDS: dict[str, tuple[Operation, _Resource] | None] = {
    "broker.reload": ("manage", _CLUSTER),
    "broker.status": ("describe", _CLUSTER),
    "group.delete": ("delete", _group),
    "group.describe": ("describe", _group),
    "group.list": None,  # each entry by itself, as with topics
    "group.reset": ("alter", _group),
    "offsets.lookup": ("describe", _read_topic),
    "operate": ("operate", _part),
    "producer.claim": ("produce", _producer),
    "producer.delete": ("delete", _producer),
    "producer.describe": ("describe", _producer),
    "producer.end": ("produce", _topic_of_producer),
    "producer.list": None,  # each entry by itself, as with topics
    "quarantine.delete": ("delete", _QUARANTINE),
    "quarantine.list": ("describe", _QUARANTINE),
    "quarantine.show": ("consume", _QUARANTINE),
    "replica.add": ("manage", _CLUSTER),
    "replica.list": ("describe", _CLUSTER),
    "replica.remove": ("manage", _CLUSTER),
    "retention.confirm": ("manage", _CLUSTER),
    "set.batch": ("replicate", _CLUSTER),
    "set.cap": ("manage", _CLUSTER),
    "set.demote": ("manage", _CLUSTER),
    "set.describe": ("describe", _CLUSTER),
    "set.fetch": ("replicate", _CLUSTER),
    "set.init": ("manage", _CLUSTER),
    "set.promote": ("manage", _CLUSTER),
    "set.recover": ("manage", _CLUSTER),
    "set.state": ("describe", _CLUSTER),
    "set.switchover": ("manage", _CLUSTER),
    "topic.alter": ("alter", _topic),
    "topic.create": ("create", _topic),
    "topic.delete": ("delete", _topic),
    "topic.describe": ("describe", _topic),
    "topic.list": None,  # each entry by itself: what may not be described is not listed
    "topic.place": ("replicate", _CLUSTER),
    "topic.resolve": ("describe", _topic),
}
"""For each operation what it is called in rules, and of which resource; None: the operation leaves out by itself."""


def check_allowed(scope: AdminScope, operation: str, request: Any) -> None:
    """Raise ``RejectedError``, naming the rule, unless who asks may do ``operation``."""
    need = NEEDS[operation]
    if scope.permit is None or need is None:
        return
    verb, resource = need
    name = resource if isinstance(resource, str) else resource(scope, request)
    if name is not None:
        scope.permit.check(verb, name)
