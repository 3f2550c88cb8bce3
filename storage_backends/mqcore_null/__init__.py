"""``null://``: accepts bytes and drops them. It measures everything but storage and can promise nothing.

Positions count as in any log; reading what was appended gives zeros (so that a reader's cost can be measured too).
"""

from mqcore_null._backend import NullStorage

__all__ = ["NullStorage"]
