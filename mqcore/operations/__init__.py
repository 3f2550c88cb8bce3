"""Administrative operations as values: one frozen class a request, one a result, structured in one place.

Broker and client take them from here, so that what is asked, what is answered and what the documentation says are one
definition. Must not know who carries an operation out, or how a request travels.
"""

from typing import Any

from mqcore.operations._convert import from_arguments, from_result, to_json
from mqcore.operations.node import BrokerStatus, DescribeBroker, Operate
from mqcore.operations.offsets import FoundOffset, LookUpOffset
from mqcore.operations.topics import (
    AlterTopic,
    CreateTopic,
    DeletedTopic,
    DeleteTopic,
    DescribeTopic,
    ListTopics,
    PartitionState,
    ResolveTopic,
    TopicDescription,
    TopicInfo,
    TopicSummary,
)

__all__ = [
    "REQUESTS",
    "AlterTopic",
    "BrokerStatus",
    "CreateTopic",
    "DeleteTopic",
    "DeletedTopic",
    "DescribeBroker",
    "DescribeTopic",
    "FoundOffset",
    "ListTopics",
    "LookUpOffset",
    "Operate",
    "PartitionState",
    "ResolveTopic",
    "TopicDescription",
    "TopicInfo",
    "TopicSummary",
    "from_arguments",
    "from_result",
    "to_json",
]

REQUESTS: dict[str, type[Any]] = {
    "broker.status": DescribeBroker,
    "offsets.lookup": LookUpOffset,
    "operate": Operate,
    "topic.alter": AlterTopic,
    "topic.create": CreateTopic,
    "topic.delete": DeleteTopic,
    "topic.describe": DescribeTopic,
    "topic.list": ListTopics,
    "topic.resolve": ResolveTopic,
}
"""The class of the arguments of each operation, by its name on the wire."""
