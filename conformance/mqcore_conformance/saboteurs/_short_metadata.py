"""Saboteurs of a set's metadata log that is made short: something that is in force is not said any more.

Knows names of ``mqcore.broker``; see ``_replacing``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mqcore_conformance.plans import TOPIC
from mqcore_conformance.saboteurs._replacing import in_place_of

TOPICS = "mqcore.broker._topics"


def _without(is_left_out: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def made(original: Any) -> Any:
        return lambda topics, *room: [record for record in original(topics, *room) if not is_left_out(record)]

    return made


@in_place_of((TOPICS, "Topics", "_state"))
def topics_left_out(original: Any) -> Any:
    """A log that is made short does not say any more that there is a topic."""
    return _without(lambda record: record.get("name") == TOPIC)(original)


@in_place_of((TOPICS, "Topics", "_state"))
def cursors_left_out(original: Any) -> Any:
    """A log that is made short does not say any more that there are cursors, nor where logs begin."""
    return _without(lambda record: record["type"] == "log-starts")(original)


@in_place_of((TOPICS, "Topics", "_last"))
def deletions_left_out(original: Any) -> Any:
    """A log that is made short does not say any more which topics are gone, to a node that was away."""
    return _without(lambda record: record["type"] == "topics-gone")(original)
