"""Which part a name or a URL on the command line means; one that means none is refused with what there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mqcore.errors import ConfigurationError
from mqcore.registry import find, installed
from mqcore_conformance.contract import login_control_of, part_facts
from mqcore_conformance.report import NOT_BUILT, NOT_BUILT_YET

STORAGES = ("memory://", "mmap://{dir}", "null://")
TRANSPORTS = ("tcp", "unix", "inproc")
COORDINATORS = ("memory", "file")
OFFSET_STORES = ("file", "sqlite")
"""Those that need no server of somebody else's."""
AUTHENTICATORS = ("scram-sha-256", "token", "tls", "unix")
TRANSPORT_SAMPLES = ("{name}://127.0.0.1:0", "{name}://{{dir}}/socket", "{name}://conformance", "{name}://")


def later(name: str) -> str:
    """Return the end of a refusal of what has its place in the matrix and is not built."""
    rows = [row for row in NOT_BUILT if name.lower() in (row.tier.lower(), row.storage, row.transport)]
    return f": {rows[0].what}, {NOT_BUILT_YET}" if rows else ""


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return the end of a refusal: what may have been meant, and all that there is."""
    names = list(allowed)
    if name[:1] == "G" and name[1:].isdecimal():
        name = f"G{int(name[1:]):02}"
    near = difflib.get_close_matches(name.lower(), [one.lower() for one in names], 1, 0.5)
    meant = next((one for one in names if near and one.lower() == near[0]), "")
    return (f"; did you mean {meant!r}? One of " if meant else "; one of ") + ", ".join(names)


def resolve_storage(value: str) -> str:
    """Return the URL of a storage given by name or URL; ``ConfigurationError`` in one line for what cannot be run."""
    scheme, colon, rest = value.partition(":")
    names = [one.name for one in installed("storage")]
    if scheme not in names:
        raise ConfigurationError(f"no storage {value!r}{later(scheme) or suggest(scheme, [*names, 'all'])}")
    find("storage", scheme)
    if not colon:
        samples = [f"{scheme}://{{dir}}", f"{scheme}://"]
        samples = [url for url in STORAGES if url.startswith(f"{scheme}:")] or samples
        value = next((url for url in samples if not _refusal("storage", url)), samples[0])
    refusal = _refusal("storage", value)
    better = f"{scheme}://{{dir}}"
    hint = f"; write '{better}': every check and cell gets a fresh folder" if not _refusal("storage", better) else ""
    if "{dir}" in value:
        hint = ""
    elif rest.lstrip("/").partition("?")[0] and hint:
        raise ConfigurationError(f"storage {value!r} is one folder for all{hint} (--dir says on which disk)")
    if refusal:
        raise ConfigurationError(f"storage {value!r} cannot be composed: {refusal}{hint}")
    return value


def resolve_transport(value: str) -> str:
    """Return a transport given by name or URL, as a name when it is mqcore's own; refuses as ``resolve_storage``."""
    scheme, colon, _ = value.partition(":")
    names = [one.name for one in installed("transports")]
    if scheme not in names:
        raise ConfigurationError(f"no transport {value!r}{later(scheme) or suggest(scheme, [*names, 'all'])}")
    find("transports", scheme)
    if not colon and value in TRANSPORTS:
        return value
    refusal = ""
    for url in [value] if colon else [sample.format(name=scheme) for sample in TRANSPORT_SAMPLES]:
        found = _refusal("transport", url)
        if not found:
            return url
        refusal = refusal or found
    hint = "" if colon else f"; give its URL, such as '{scheme}://127.0.0.1:0'"
    raise ConfigurationError(f"transport {value!r} cannot be composed: {refusal}{hint}")


def resolve_coordinator(value: str) -> str:
    """Return a coordinator given by name or URL; refuses as ``resolve_storage``."""
    return _resolved("coordinator", value)


def resolve_offset_store(value: str) -> str:
    """Return an offset store given by name or URL; refuses as ``resolve_storage``."""
    return _resolved("offset_store", value)


def resolve_authenticator(value: str) -> str:
    """Return an authenticator given by name; refuses one that is not there, or at which the suite knows nobody."""
    _resolved("authenticator", value)
    login_control_of(value)
    return value


def _resolved(kind: str, value: str) -> str:
    scheme, word = value.partition(":")[0], kind.replace("_", " ")
    names = [one.name for one in installed(f"{kind}s")]
    if scheme not in names:
        raise ConfigurationError(f"no {word} {value!r}{suggest(scheme, [*names, 'all'])}")
    find(f"{kind}s", scheme)
    refusal = _refusal(kind, value) if ":" in value else ""
    if refusal:
        raise ConfigurationError(f"{word} {value!r} cannot be composed: {refusal}")
    return value


def _refusal(kind: str, url: str) -> str:
    """Return why a URL is wrongly written, if it is; what is wrong with the part itself is for its checks to say."""
    return part_facts(kind, url).refusal
