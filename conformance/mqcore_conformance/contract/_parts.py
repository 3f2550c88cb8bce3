"""Asks a part what it is before anything is made of it, in a process of its own: it may hang or raise even there."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache, partial
from typing import cast

import attrs

from mqcore.abc import (
    Capabilities,
    CoordinatorCapabilities,
    CoordinatorContext,
    OffsetStoreCapabilities,
    OffsetStoreContext,
    StorageContext,
    TransportCapabilities,
)
from mqcore.errors import ConfigurationError, MqcoreError, PluginInvalidError, PluginNotFoundError
from mqcore.ports import system_ports
from mqcore.registry import create_coordinator, create_offset_store, create_storage, create_transport, find
from mqcore_conformance.children import run_apart
from mqcore_conformance.children.tracebacks import printable
from mqcore_conformance.contract import _coordinator_harness, _offset_store_harness, _transport

SECONDS_MAX = 5.0
GROUPS = {
    "storage": "storage",
    "transport": "transports",
    "coordinator": "coordinators",
    "offset_store": "offset_stores",
    "authenticator": "authenticators",
}
DEFAULTS = {
    "storage": {},
    "transport": _transport.DEFAULTS,
    "coordinator": _coordinator_harness.DEFAULTS,
    "offset_store": _offset_store_harness.DEFAULTS,
    "authenticator": {},
}
SAMPLE_FOLDER = "/dev/null/data"
"""Stands for ``{dir}``: composing does no I/O, so that no folder is needed."""


@attrs.frozen(kw_only=True)
class PartFacts:
    """What a part declares, or why it declares nothing. ``unknown``: no part of that name is installed.

    ``refusal``: the URL is wrongly written. ``problem``: the part itself is broken.
    """

    capabilities: Capabilities | TransportCapabilities | CoordinatorCapabilities | OffsetStoreCapabilities | None = None
    refusal: str = ""
    problem: str = ""
    unknown: bool = False


def part_facts(kind: str, url: str) -> PartFacts:
    """Return the facts of the part at ``url`` (with ``{dir}``, or a transport's name); never raises for the part."""
    try:
        part = find(GROUPS[kind], url.partition(":")[0])
    except PluginNotFoundError as error:
        return PartFacts(refusal=printable(str(error)), unknown=True)
    except MqcoreError as error:
        return PartFacts(problem=printable(str(error)))
    return _facts_of(kind, url, cast(Hashable, part))


@cache
def _facts_of(kind: str, url: str, part: Hashable) -> PartFacts:
    """``part``: the class of now; another one may get its name later."""
    outcome = run_apart(partial(_ask, kind, url), seconds_max=SECONDS_MAX, returns=PartFacts)
    return outcome.value or PartFacts(problem=outcome.problem)


def require_part(kind: str, url: str) -> None:
    """Raise ``ConfigurationError`` when no part of that name is installed: the name is wrong, not the part."""
    facts = part_facts(kind, url)
    if facts.unknown:
        raise ConfigurationError(facts.refusal)


def _ask(kind: str, url: str) -> PartFacts:
    url = DEFAULTS[kind].get(url, url).replace("{dir}", SAMPLE_FOLDER)
    try:
        if kind == "storage":
            return PartFacts(capabilities=create_storage(url, StorageContext(ports=system_ports())).capabilities)
        if kind == "authenticator":
            return PartFacts()  # it declares nothing, and options come from its LoginControl
        if kind == "coordinator":
            asked = create_coordinator(url, CoordinatorContext(ports=system_ports()))
            return PartFacts(capabilities=asked.capabilities)
        if kind == "offset_store":
            store = create_offset_store(url, OffsetStoreContext(ports=system_ports()))
            return PartFacts(capabilities=store.capabilities)
        return PartFacts(capabilities=create_transport(url).capabilities)
    except PluginInvalidError as error:
        return PartFacts(problem=printable(str(error)))
    except MqcoreError as error:
        return PartFacts(refusal=printable(str(error)))
