"""Asks a part what it is before anything is made of it, in a process of its own: it may hang or raise even there."""

from __future__ import annotations

import tempfile
from functools import cache, partial
from pathlib import Path

import attrs

from mqcore.abc import Capabilities, StorageContext, TransportCapabilities
from mqcore.errors import ConfigurationError, MqcoreError, PluginNotFoundError
from mqcore.ports import system_ports
from mqcore.registry import create_storage, create_transport
from mqcore_conformance.children import run_apart
from mqcore_conformance.children.tracebacks import printable
from mqcore_conformance.contract._transport import DEFAULTS

__all__ = ["PartFacts", "part_facts", "require_part"]

SECONDS_MAX = 5.0


@attrs.frozen(kw_only=True)
class PartFacts:
    """What a part says of itself, or why it says nothing. ``unknown``: no part of that name is installed."""

    capabilities: Capabilities | TransportCapabilities | None = None
    problem: str = ""
    unknown: bool = False


@cache
def part_facts(kind: str, url: str) -> PartFacts:
    """Return the facts of the part at ``url`` (with ``{dir}``, or a transport's name); never raises for the part."""
    with tempfile.TemporaryDirectory(prefix="mqcore-") as folder:
        outcome = run_apart(partial(_ask, kind, url, Path(folder)), seconds_max=SECONDS_MAX, returns=PartFacts)
    return outcome.value or PartFacts(problem=outcome.problem)


def require_part(kind: str, url: str) -> None:
    """Raise ``ConfigurationError`` when no part of that name is installed: the name is wrong, not the part."""
    facts = part_facts(kind, url)
    if facts.unknown:
        raise ConfigurationError(facts.problem)


def _ask(kind: str, url: str, folder: Path) -> PartFacts:
    try:
        if kind == "storage":
            context = StorageContext(ports=system_ports())
            backend = create_storage(url.replace("{dir}", str(folder / "data")), context)
            return PartFacts(capabilities=backend.capabilities)
        known = DEFAULTS.get(url, url).replace("{dir}", str(folder))
        return PartFacts(capabilities=create_transport(known).capabilities)
    except PluginNotFoundError as error:
        return PartFacts(problem=printable(str(error)), unknown=True)
    except MqcoreError as error:
        return PartFacts(problem=printable(str(error)))
