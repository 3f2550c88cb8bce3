"""What the partitions of one producer share: who it is, how it sends, what it holds. No I/O, no trio."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mqcore.abc import Codec
from mqcore.client._backoff import Backoff
from mqcore.client._claimed_name import UNNAMED, ClaimedName
from mqcore.client._options import ProducerOptions
from mqcore.client._pending_batch import PendingBatch
from mqcore.limits import Limits
from mqcore.protocol import SendPolicy

__all__ = ["Loss", "ProducerState", "keep_loss"]

_log = logging.getLogger("mqcore.client")


class Loss(NamedTuple):
    """Acknowledged messages that a permitted loss took from the log: their receipts are void."""

    topic: str
    partition: int
    messages: int


def keep_loss(losses: deque[Loss], loss: Loss) -> None:
    """Add ``loss`` to ``losses``, and log it."""
    losses.append(loss)
    _log.warning(
        "topic %r partition %d: %d acknowledged messages were lost by the broker (a loss that its policy permits);"
        " their receipts are void", *loss,
    )  # fmt: skip


class ProducerState:
    """One producer's identity, options and account.

    ``completed`` collects batches whose outcome became known, for the shell, which empties it. ``bytes_held`` is what
    waits for its outcome, in bytes. ``limits`` are the smaller ones of the client's and the broker's. ``lost`` is
    called with every loss that a broker reports. ``claimed``: the name under which the producer sends, if it has one.
    """

    def __init__(
        self,
        topic: str,
        options: ProducerOptions,
        *,
        producer_id: int,
        limits: Limits,
        backoff: Backoff,
        random: random.Random,
        codec: Codec | None = None,
        lost: Callable[[Loss], None],
        claimed: ClaimedName = UNNAMED,
    ) -> None:
        self.topic = topic
        self.options = options
        self.producer_id = producer_id
        self.limits = limits
        self.backoff = backoff
        self.random = random
        self.codec = codec
        self.lost = lost
        self.claimed = claimed
        self.policy = SendPolicy[options.policy.upper()]
        self.window = options.batches_in_flight_max
        self.linger = options.linger_ms / 1000
        self.completed: list[PendingBatch] = []
        self.bytes_held = 0
