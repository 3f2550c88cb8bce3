"""Reads a configuration from a TOML file, the environment and arguments, later ones over earlier ones.

Every error names the source, the key's path, the value and what is allowed. Must not know what parts there are: options
of a part are handed on as they were written.
"""

from __future__ import annotations

import codecs
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from mqcore.config._access import access_table
from mqcore.config._cluster import ClusterTable, CoordinatorTable
from mqcore.config._environment import read_environment
from mqcore.config._model import (
    DEFAULT_LISTEN,
    BrokerConfig,
    FlushTable,
    ListenTable,
    ReplicationTable,
    RetentionTable,
    StorageTable,
    TopicConfig,
)
from mqcore.errors import ConfigurationError
from mqcore.guarantees.policies import (
    AsyncFlush,
    AsyncReplication,
    NoFlush,
    NoReplication,
    SyncFlush,
    SyncReplication,
)
from mqcore.guarantees.policy_text import parse_flush, parse_replication
from mqcore.limits import Limits
from mqcore.registry import canonical_keys, structure_options

__all__ = ["load_config", "make_config", "read_toml"]

FILE_BYTES_MAX = 1024 * 1024

_Raw = dict[str, Any]
_POLICY_NAMES = {
    SyncFlush: "sync",
    AsyncFlush: "async",
    NoFlush: "none",
    SyncReplication: "sync",
    AsyncReplication: "async",
    NoReplication: "none",
}
# a source that names one of these decides the others of the group too: a new URL does not inherit foreign options
_LEADERS = {"storage": "url", "flush": "policy", "replication": "policy", "cluster.coordinator": "url"}
_SAMPLE = "mmap:///var/lib/mqcore"
_KEPT = {"flush": ("total_bytes_max",)}


def make_config(**keys: object) -> BrokerConfig:
    """Return a configuration from keyword arguments, as ``mqcore.open_broker`` takes them.

    Keys are those of the TOML file; a table is a mapping, an instance of its class, or its short form: ``storage`` a
    URL, ``listen`` a URL or a list of URLs and tables, ``flush`` and ``replication`` a policy or its text. Nothing is
    read from the environment, nothing listens unless told to. Raises ``ConfigurationError``.
    """
    return _compose([("arguments", keys)], listen_default=())


def load_config(
    path: str | Path | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    overrides_name: str = "command line",
) -> BrokerConfig:
    """Return the configuration of the TOML file ``path``, overridden by ``environment``, then by ``overrides``.

    ``environment`` is ``os.environ`` or a part of it; variables called ``MQCORE_...`` after a key are read, an
    unknown one is an error. ``overrides`` takes the keys of ``make_config``. A source that names a storage URL or a
    policy replaces the whole of it, options and bounds included; ``listen`` is replaced as a whole. Raises
    ``ConfigurationError``.
    """
    sources: list[tuple[str, Mapping[str, object]]] = []
    if path is not None:
        sources.append((str(path), read_toml(path)))
    if environment:
        default = _listen(DEFAULT_LISTEN)
        listeners = _normal(*sources[0]).get("listen", default) if sources else default
        topics = _topic_names(sources, overrides)
        # Most environments say nothing to us; an error then must not send its reader to look there.
        if values := read_environment(environment, topics, listeners):
            sources.append(("environment", values))
    if overrides:
        sources.append((overrides_name, overrides))
    return _compose(sources, listen_default=(DEFAULT_LISTEN,))


_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_toml(path: str | Path) -> dict[str, object]:
    """Return the tables of a TOML file of at most 1 MiB; ``ConfigurationError`` names the file and what is wrong."""
    if "\0" in str(path):
        raise ConfigurationError(f"{str(path)!r} has a NUL byte in it, which no path can have: leave it out")
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read: {error.strerror}; `mqcore config init` writes an example"
        ) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigurationError(f"{path}: larger than {FILE_BYTES_MAX} bytes; this is no configuration file")
    if data.startswith(_BYTE_ORDER_MARKS):
        raise ConfigurationError(
            f"{path}: begins with a byte-order mark (bytes {data[:2].hex(' ')} ...), which TOML does not have: "
            "save it as UTF-8 without one"
        )
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from None


def _compose(sources: Sequence[tuple[str, Mapping[str, object]]], listen_default: tuple[str, ...]) -> BrokerConfig:
    merged: _Raw = {}
    origins: dict[str, str] = {}
    for where, mapping in sources:
        _merge(merged, _normal(where, mapping), where, origins)
    names = " and ".join(where for where, _ in sources) or "configuration"
    looked = " and ".join(where for where, _ in sources if where != "environment")
    looked += ": " if looked else ""
    merged.setdefault("listen", [{"url": url, "options": {}} for url in _own_urls(merged) or listen_default])
    storage = merged.get("storage")
    nameless = storage is None or (isinstance(storage, dict) and not storage.get("url"))
    if nameless:
        # whatever else is wrong is told first: it may be the misspelt key of the storage
        merged["storage"] = {"url": "", "options": {}}

    def origin(path: str) -> str:
        best = max((known for known in origins if _covers(known, path)), key=len, default="")
        return origins.get(best, names)

    config = structure_options(BrokerConfig, merged, origin)
    if nameless:
        raise ConfigurationError(f"{looked}no storage is named; write storage.url or --storage, as in {_SAMPLE}")
    return config


def _own_urls(merged: _Raw) -> list[str]:
    """Where the sets say that this node is to be reached, as far as what is said of them has the right shape."""
    cluster = merged.get("cluster")
    tables = cluster.get("sets") if isinstance(cluster, dict) else None
    sets = [each for each in tables if isinstance(each, dict)] if isinstance(tables, list | tuple) else []
    nodes = [node for each in sets if isinstance(each.get("nodes"), list | tuple) for node in each["nodes"]]
    for node in nodes:
        if isinstance(node, dict) and node.get("name") == merged.get("name") and isinstance(node.get("urls"), list):
            return [url for url in node["urls"] if isinstance(url, str)]
    return []


def _covers(known: str, path: str) -> bool:
    return path == known or path.startswith((known + ".", known + "["))


def _merge(into: _Raw, new: _Raw, where: str, origins: dict[str, str], path: str = "") -> None:
    for key, value in new.items():
        at = f"{path}.{key}" if path else key
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            if value.get(_LEADERS.get(at, "")) is not None:
                into[key] = {kept: into[key][kept] for kept in _KEPT.get(at, ()) if kept in into[key]}
            _merge(into[key], value, where, origins, at)
        else:
            into[key] = value
        _note(value, where, origins, at)


def _note(value: object, where: str, origins: dict[str, str], at: str) -> None:
    origins[at] = where
    if isinstance(value, dict):
        for key, item in value.items():
            _note(item, where, origins, f"{at}.{key}")


def _normal(where: str, mapping: Mapping[str, object]) -> _Raw:
    """Return the keys of one source with short forms written out; wrong kinds of values are left to the structuring."""
    result: _Raw = dict(mapping)
    try:
        if "storage" in result:
            result["storage"] = _part_table(result["storage"], StorageTable)
        if "listen" in result:
            result["listen"] = _listen(result["listen"])
        if "flush" in result:
            result["flush"] = _policy_table(result["flush"], FlushTable, parse_flush)
        if "replication" in result:
            result["replication"] = _policy_table(result["replication"], ReplicationTable, parse_replication)
        if isinstance(result.get("retention"), Mapping):
            result["retention"] = canonical_keys(RetentionTable, result["retention"])
        if "access" in result:
            result["access"] = access_table(result["access"])
        if "cluster" in result:
            result["cluster"] = _cluster(result["cluster"])
        if isinstance(result.get("limits"), Mapping):
            result["limits"] = canonical_keys(Limits, result["limits"])
        elif isinstance(result.get("limits"), Limits):
            result["limits"] = attrs.asdict(result["limits"])
        if isinstance(result.get("topics"), Mapping):
            result["topics"] = {str(name): _topic(topic) for name, topic in result["topics"].items()}
    except (ConfigurationError, ValueError) as error:
        raise ConfigurationError(f"{where}: {error}") from None
    return result


def _part_table(raw: Any, cls: type[StorageTable] | type[ListenTable] | type[CoordinatorTable]) -> Any:
    """Return the table of a part: the keys that are ours as they are, everything else as its options."""
    if isinstance(raw, cls):
        return attrs.asdict(raw, recurse=False)
    if isinstance(raw, str):
        return {"url": raw, "options": {}}
    if not isinstance(raw, Mapping):
        return raw
    ours = {field.name for field in attrs.fields(cls)} - {"options"}
    table = {key: value for key, value in raw.items() if key in ours}
    return {**table, "options": {key: value for key, value in raw.items() if key not in ours}}


def _cluster(raw: Any) -> Any:
    if isinstance(raw, ClusterTable):
        return attrs.asdict(raw)
    if not isinstance(raw, Mapping):
        return raw
    table = canonical_keys(ClusterTable, raw)
    if "coordinator" in table:
        table["coordinator"] = _part_table(table["coordinator"], CoordinatorTable)
    return table


def _listen(raw: Any) -> Any:
    if not isinstance(raw, str | Mapping | ListenTable | list | tuple):
        return raw
    items = raw if isinstance(raw, list | tuple) else [raw]
    return [_part_table(item, ListenTable) for item in items]


def _policy_table(raw: Any, cls: type[Any], parse: Any) -> Any:
    """Return the table of a policy given as a table, as a value, as text, or as a table with such a text in it."""
    if isinstance(raw, cls):
        return {key: value for key, value in attrs.asdict(raw, recurse=False).items() if value is not None}
    if isinstance(raw, str):
        return _spread(raw, parse)
    if type(raw) in _POLICY_NAMES:
        return _spread_value(raw)
    if isinstance(raw, Mapping):
        text = raw.get("policy")
        table = canonical_keys(cls, raw)
        return {**table, **_spread(text, parse)} if isinstance(text, str) and "(" in text else table
    return raw


def _spread(text: str, parse: Any) -> _Raw:
    policy = parse(text)
    return _spread_value(policy) if "(" in text else {"policy": text.strip()}


def _spread_value(policy: Any) -> _Raw:
    values = attrs.asdict(policy, recurse=False)
    given = {key: value for key, value in values.items() if value is not None}
    return {"policy": _POLICY_NAMES[type(policy)], **given}


def _topic(raw: Any) -> Any:
    if isinstance(raw, TopicConfig):
        return attrs.asdict(raw, recurse=False)
    return canonical_keys(TopicConfig, raw) if isinstance(raw, Mapping) else raw


def _topic_names(
    sources: Sequence[tuple[str, Mapping[str, object]]], overrides: Mapping[str, object] | None
) -> list[str]:
    tables = [mapping.get("topics") for _, mapping in sources] + [(overrides or {}).get("topics")]
    return sorted({str(name) for table in tables if isinstance(table, Mapping) for name in table})
