"""What each listener of a build is: encrypted, authenticated, multiplexed. Composes transports and listens nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mqcore.config import BrokerConfig

__all__ = ["listeners_as_json", "listeners_in_words"]

_WORDS = (
    ("encrypted", "encrypted", "not encrypted"),
    ("authenticated", "knows its peers", "peers stay unknown"),
    ("multiplexed", "many streams on one connection", "a connection for each stream"),
    ("local_only", "this machine only", ""),
)


def listeners_as_json(config: BrokerConfig) -> list[dict[str, object]]:
    """Return of each listener its URL and what its transport declares with these options."""
    from mqcore.abc import TransportContext
    from mqcore.registry import create_transport

    context = TransportContext(tls=config.tls)
    found: list[dict[str, object]] = []
    for listen in config.listen:
        capabilities = create_transport(listen.url, context, listen.options).capabilities
        found.append({"url": listen.url, **{name: getattr(capabilities, name) for name, _, _ in _WORDS}})
    return found


def listeners_in_words(config: BrokerConfig) -> list[str]:
    """Return a line for each listener, under a heading."""
    lines = ["Listeners"]
    for told in listeners_as_json(config):
        words = [yes if told[name] else no for name, yes, no in _WORDS]
        lines.append(f"  {told['url']}: {', '.join(word for word in words if word)}")
    return lines
