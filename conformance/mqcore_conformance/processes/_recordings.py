"""The suite's side of a recorder: follow its file, and put what it wrote into the history of the run.

The clocks of all processes of a run are one clock, so that events are put in order by time; those of one process keep
their order. Must not know how anything is judged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from mqcore_conformance.histories import Completed, Event, Fetched, FetchFailed, event_from_plain

__all__ = ["Life", "Recording", "merged"]


@attrs.define(kw_only=True)
class Life:
    """One process of the broker: when it was started, and who it said it is (``epoch`` 0: it was gone before)."""

    number: int
    began_us: int
    names: tuple[str, ...] = ()
    epoch: int = 0


class Recording:
    """A file that grows. ``acknowledgements`` counts those seen so far; ``done``: every producer is."""

    def __init__(self, path: Path) -> None:
        self.acknowledgements = 0
        self.done = False
        self.events: list[Event] = []
        self.met: dict[int, tuple[str, int]] = {}
        self._path = path
        self._position = 0

    def read(self) -> None:
        """Take in what was written since the last time; a line that has no end yet is left for the next time."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return
        lines = data[: data.rfind(b"\n") + 1]
        self._position += len(lines)
        for line in lines.splitlines():
            plain = json.loads(line)
            if "recorder" in plain:
                self._take(plain)
                continue
            event = event_from_plain(plain)
            self.events.append(event)
            self.acknowledgements += isinstance(event, Completed) and event.outcome == "acknowledged"

    def _take(self, plain: dict[str, Any]) -> None:
        if plain["recorder"] == "done":
            self.done = True
        else:
            self.met[plain["as"]] = (plain["node"], plain["epoch"])


def merged(history: Sequence[Event], recording: Recording, lives: Sequence[Life]) -> list[Event]:
    """Return ``history``, which begins with its setting, with what was recorded. ``lives``: oldest first.

    Where two lives of lost memory have one name and epoch, the newer one that had begun is meant.
    """
    found = [_of_life(event, recording.met, lives) for event in recording.events]
    return [history[0], *sorted([*history[1:], *found], key=lambda event: event.time_us)]


def _of_life(event: Event, met: dict[int, tuple[str, int]], lives: Sequence[Life]) -> Event:
    if not isinstance(event, Completed | Fetched | FetchFailed) or event.life >= 0:
        return event
    name, epoch = met[event.life]
    known = [life for life in lives if life.epoch == epoch and name in life.names]
    # A broker may have answered and died before it told the suite who it is.
    able = [life for life in known or lives if life.began_us <= event.time_us and (known or not life.epoch)]
    return attrs.evolve(event, life=able[-1].number if able else 0)
