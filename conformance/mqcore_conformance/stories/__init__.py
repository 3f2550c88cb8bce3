"""Histories that are known to be bad, and good: made by hand, one for every way in which a clause breaks or just holds.

The checkers' tests read them, and the selftest: a checker that is sabotaged has to judge one of them otherwise.
"""

import mqcore_conformance.stories._consumers
import mqcore_conformance.stories._content
import mqcore_conformance.stories._flushes
import mqcore_conformance.stories._loss
import mqcore_conformance.stories._observed
import mqcore_conformance.stories._policies  # noqa: F401 - importing them tells the stories
from mqcore_conformance.stories._story import STORIES, Case, Story

__all__ = ["STORIES", "Story", "Case"]
