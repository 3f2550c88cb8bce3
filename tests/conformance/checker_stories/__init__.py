"""Histories that are known to be bad, and good: made by hand, one for every way in which a clause breaks or just holds.

The checkers' tests read them, and the selftest: a checker that is sabotaged has to judge one of them otherwise.
"""

import checker_stories._consumers
import checker_stories._content
import checker_stories._flushes
import checker_stories._kept
import checker_stories._loss
import checker_stories._nodes
import checker_stories._observed
import checker_stories._policies
import checker_stories._replication
import checker_stories._rotten
import checker_stories._sets
import checker_stories._tags  # noqa: F401 - importing them tells the stories
from checker_stories._story import STORIES, Case, Story

__all__ = ["STORIES", "Story", "Case"]
