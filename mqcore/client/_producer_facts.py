"""What does not change of a producer while it is open: its topic, and under which identity and name it sends."""

from __future__ import annotations

from collections.abc import Mapping

from mqcore.client._producer_state import ProducerState

__all__ = ["ProducerFacts"]


class ProducerFacts:
    """A producer's topic and identity. Those of a name are empty for a producer that has none."""

    def __init__(self, state: ProducerState, partitions: int) -> None:
        self._state = state
        self._partitions = partitions

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self._state.topic

    @property
    def partitions(self) -> int:
        """Number of the topic's partitions, as it was when the producer was opened."""
        return self._partitions

    @property
    def producer_id(self) -> int:
        """The 64 random bits under which the broker knows this producer's retries."""
        return self._state.producer_id

    @property
    def name(self) -> str | None:
        """The name under which it sends; None: it has none, and no other process goes on as it."""
        return self._state.claimed.name

    @property
    def epoch(self) -> int:
        """The epoch that this process was given with the name, 1 for the first one; 0 without a name."""
        return self._state.claimed.epoch

    @property
    def last(self) -> Mapping[int, int]:
        """By partition, the offset of the last message that earlier processes of the name have stored there.

        It is committed, and nothing of theirs comes after it but what was sent one way, which does not count. A
        partition that is not in it has nothing of the name, or is in ``forgotten``.
        """
        return self._state.claimed.last

    @property
    def forgotten(self) -> frozenset[int]:
        """Partitions of which the broker does not know what they have of the name (``producer_retention_ms``)."""
        return self._state.claimed.forgotten
