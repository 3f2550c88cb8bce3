"""Storages with files as small as they go, so that little data fills several. No part is known by its name here.

A storage has small files when its options say so: by the names of the sizes that it declares.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType

import attrs

from mqcore.errors import MqcoreError
from mqcore.registry import find

_SMALL: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "segment_bytes": (4096, 16_384, 65_536),
        "first_extent_bytes": (4096,),
        "journal_bytes": (65_536,),
        "journal_range_bytes_max": (0, 4096, 262_144),
        "extent_bytes_max": (4096, 16_384),
    }
)
"""Options that bound the size of a file, and values at which a short run meets rolls, trims and journals."""


def with_drawn_files(rng: random.Random, url: str) -> str:
    """Return the URL of a storage with a drawn value for each of these options that it has."""
    drawn = {name: rng.choice(sizes) if len(sizes) > 1 else next(iter(sizes)) for name, sizes in _declared(url)}
    return _with(url, drawn)


def with_small_files(url: str) -> str:
    """Return the URL of a storage with the same values each time; what shares a flush among logs stays as it is."""
    return _with(url, {name: sizes[len(sizes) // 2] for name, sizes in _declared(url) if 0 not in sizes})


def _declared(url: str) -> list[tuple[str, tuple[int, ...]]]:
    """The options that the storage declares; none where its URL has options of its own, which are left alone."""
    if "?" in url:
        return []
    try:
        known = {field.name for field in attrs.fields(find("storage", url.partition(":")[0]).options_class)}
    except MqcoreError:
        return []  # composing it says what is wrong
    return [(name, sizes) for name, sizes in _SMALL.items() if name in known]


def _with(url: str, options: Mapping[str, int]) -> str:
    return f"{url}?{'&'.join(f'{name}={size}' for name, size in options.items())}" if options else url
