"""Histories that are known to be bad, and good: made by hand, one for every way in which a clause breaks or just holds.

The checkers' tests read them, and the selftest: a checker that is sabotaged has to judge one of them otherwise.
"""

from mqcore_conformance.stories import _consumers as _consumers
from mqcore_conformance.stories import _content as _content
from mqcore_conformance.stories import _flushes as _flushes
from mqcore_conformance.stories import _loss as _loss
from mqcore_conformance.stories import _observed as _observed
from mqcore_conformance.stories._story import STORIES, Story, Tale

__all__ = ["STORIES", "Story", "Tale"]
