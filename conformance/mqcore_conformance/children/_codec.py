"""What a child returns, as JSON text of a type that its parent named: the child cannot make anything else of it.

A part under test ran in the child, so the text is hostile until it is structured. Knows nothing of pipes and processes.
"""

from __future__ import annotations

import json
from typing import Any

from cattrs.preconf.json import make_converter
from cattrs.strategies import configure_tagged_union

from mqcore.abc import Capabilities, CoordinatorCapabilities, OffsetStoreCapabilities, TransportCapabilities
from mqcore_conformance.histories import Event

_converter = make_converter(forbid_extra_keys=True, detailed_validation=False)
configure_tagged_union(Event, _converter)
_converter.register_unstructure_hook(bytearray, lambda value: _converter.unstructure(bytes(value)))
_converter.register_structure_hook(bytearray, lambda value, _: bytearray(_converter.structure(value, bytes)))
_CAPABILITIES = {
    "flush_level": Capabilities,
    "half_close": TransportCapabilities,
    "value_bytes_max": CoordinatorCapabilities,
    "commit_cursors_max": OffsetStoreCapabilities,
}
"""The capabilities of each kind of part, by a field that only they have."""


_AnyCapabilities = Capabilities | TransportCapabilities | CoordinatorCapabilities | OffsetStoreCapabilities


def _capabilities(value: Any, _: object) -> Any:
    if value is None:
        return None
    (kind,) = (kind for field, kind in _CAPABILITIES.items() if field in value)
    return _converter.structure(value, kind)


_converter.register_structure_hook_func(lambda kind: kind == _AnyCapabilities | None, _capabilities)
_converter.register_structure_hook_func(lambda kind: kind is object, lambda value, _: value)


class HandoverError(ValueError):
    """A value is not of its type, or a text is none of ``to_json`` for that type."""


def to_json(value: object, kind: Any) -> bytes:
    """Return ``value``, of the type ``kind`` (``Any``: JSON data), as one JSON text."""
    try:
        return json.dumps(_converter.unstructure(value, unstructure_as=kind)).encode()
    except Exception as error:
        raise HandoverError(f"it is no {kind}: {type(error).__name__}: {error}") from None


def from_json(data: bytes | bytearray, kind: Any) -> Any:
    """Return the value of a text of ``to_json`` for ``kind``; ``HandoverError`` for any other text."""
    try:
        return _converter.structure(json.loads(data), kind)
    except Exception as error:
        raise HandoverError(f"no {kind}: {type(error).__name__}") from None
