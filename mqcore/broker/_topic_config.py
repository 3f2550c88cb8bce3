"""The configuration of a topic as JSON, in the metadata log and on the wire, and how a topic is refused.

Must not know which topics there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import cattrs

from mqcore.config import TopicConfig
from mqcore.errors import RejectedError
from mqcore.guarantees import (
    FlushPolicy,
    ReplicationPolicy,
    format_flush,
    format_replication,
    parse_flush,
    parse_replication,
)
from mqcore.nurseries import root_cause
from mqcore.protocol import Code

__all__ = ["config_from_json", "config_to_json", "refused"]

_converter = cattrs.Converter(forbid_extra_keys=True, omit_if_default=True)


def _register_policy(policies: object, as_text: Callable[[Any], str], parse: Callable[[str], object]) -> None:
    def is_one(hint: object) -> bool:
        return hint == policies

    _converter.register_unstructure_hook_func(is_one, lambda policy: None if policy is None else as_text(policy))
    _converter.register_structure_hook_func(is_one, lambda text, _: None if text is None else parse(str(text)))


_register_policy(FlushPolicy | None, format_flush, parse_flush)
_register_policy(ReplicationPolicy | None, format_replication, parse_replication)


def config_to_json(config: TopicConfig) -> dict[str, Any]:
    """The keys of ``config`` that differ from their defaults, as JSON values."""
    plain: dict[str, Any] = _converter.unstructure(config, TopicConfig)
    return plain


def config_from_json(plain: Mapping[str, Any]) -> TopicConfig:
    """The inverse of ``config_to_json``; ``RejectedError`` names an unknown key or a value that cannot be."""
    known = {field.name for field in attrs.fields(TopicConfig)}
    for key in plain:
        if key not in known:
            raise refused(Code.INVALID_REQUEST, f"unknown topic key {key!r}; known: {', '.join(sorted(known))}")
    try:
        return _converter.structure(plain, TopicConfig)
    except Exception as error:
        cause = root_cause(error)
        text = f"configuration of the topic: {str(cause) or type(cause).__name__}"
        raise refused(Code.INVALID_REQUEST, text) from None


def refused(code: Code, text: str) -> RejectedError:
    """The refusal of what is asked of topics."""
    return RejectedError(text, code=code, name=code.label, retryable=code.retryable)
