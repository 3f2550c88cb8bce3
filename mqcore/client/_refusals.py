"""Logging why a producer's messages wait: once, and only when it lasts. Must not know of batches or retries."""

from __future__ import annotations

import logging
import math

from mqcore.operations import SetDescription

__all__ = ["Refusals", "who_is_here"]

TELL_AFTER_S = 3.0
"""How long messages are refused, and sent again, before that is logged."""

_log = logging.getLogger("mqcore.client")


class Refusals:
    """Refusals of one topic's messages since one was last taken in (``since``, infinity while there was none)."""

    def __init__(self, topic: str, delivery_timeout_s: float) -> None:
        self.since = math.inf
        self._topic = topic
        self._delivery_timeout_s = delivery_timeout_s
        self._is_reported = False

    def report(self, text: str, now: float) -> None:
        """Take in a refusal for the reason ``text``."""
        if self.since == math.inf:
            self.since, self._is_reported = now, False
        if now - self.since >= TELL_AFTER_S and not self._is_reported:
            self._is_reported = True
            _log.warning(
                "topic %r: nothing is taken in, going on trying; each message for %g s: %s",
                self._topic, self._delivery_timeout_s, text,
            )  # fmt: skip


def who_is_here(found: SetDescription) -> str:
    """Return in a line which nodes of a set can acknowledge, and what to do about those that may be waited for."""
    here = sorted(each.name for each in found.members if each.in_sync and each.last_seen_ms is not None)
    away = [each.name for each in found.members if each.name not in here]
    waited = [each.name for each in found.members if each.in_sync and each.name in away]
    text = f"of set {found.set_name} in sync and here: {', '.join(here) or 'none'}"
    if waited:
        text += f"; in sync and not here: {', '.join(waited)}: start it or mend the network, or"
        text += f" 'mqcore replica remove {waited[0]}' if it stays away"
    elif away:
        text += f"; if the topic asks for more copies than {len(here)}: start {' or '.join(away)}"
    return f"{text}; 'mqcore cluster describe' says more"
