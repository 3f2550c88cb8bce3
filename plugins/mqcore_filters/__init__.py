"""Filters by header and by key: ``header:NAME=VALUE|VALUE``, ``key:PREFIX``."""

from mqcore_filters._header import HeaderFilter
from mqcore_filters._key import KeyFilter

__all__ = ["HeaderFilter", "KeyFilter"]
