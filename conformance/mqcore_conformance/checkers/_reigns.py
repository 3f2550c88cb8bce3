"""Who reigned when: the reigns of a history, in the order in which they began. Judges nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from functools import cache

from mqcore_conformance.histories import NodeLife, Started


class Reigns:
    """Filled by one pass over a history; asked afterwards."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Started]] = []
        """Every beginning of a reign, with its index in the history."""
        self.starts: list[tuple[int, Started]] = []
        """The same, and every beginning of a life that serves, with epoch 0."""
        self._epochs: dict[NodeLife, list[int]] = defaultdict(list)
        self._indices: dict[NodeLife, list[int]] = defaultdict(list)
        self.promoted_after = cache(self._promoted_after)

    def began(self, index: int, event: Started) -> None:
        """Take in event ``index``; a node that serves without reigning begins none."""
        self.starts.append((index, event))
        if event.epoch:
            self.events.append((index, event))
            self._epochs[event.by].append(event.epoch)
            self._indices[event.by].append(index)

    def epoch_of(self, by: NodeLife, stated: int) -> int:
        """The epoch under which a life reigned; of several, ``stated`` if it is one, else the newest."""
        epochs = self._epochs.get(by, ())
        return stated if stated in epochs else max(epochs, default=stated)

    def epoch_at(self, by: NodeLife, index: int) -> int:
        """The newest epoch under which a life had reigned by event ``index``; 0: under none."""
        before = bisect_left(self._indices.get(by, ()), index)
        return self._epochs[by][before - 1] if before else 0

    def newest_at(self, index: int) -> int:
        """The epoch of the newest reign that had begun before event ``index``; 0: none had."""
        return max((event.epoch for at, event in self.events if at < index), default=0)

    def newer_than(self, epoch: int, index: int) -> tuple[int, Started] | None:
        """The first reign above ``epoch`` that had begun before event ``index``, with the index of its beginning."""
        return next(((at, each) for at, each in self.events if each.epoch > epoch and at < index), None)

    def _promoted_after(self, epoch: int) -> tuple[str, ...]:
        """Nodes that began a reign above ``epoch``."""
        return tuple(sorted({event.node for _, event in self.events if event.epoch > epoch}))
