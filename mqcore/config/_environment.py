"""Configuration keys as environment variables: ``MQCORE_`` and the key's path in capitals, joined by ``_``.

``MQCORE_FLUSH_MAX_BYTES`` is ``flush.max_bytes``; ``MQCORE_STORAGE_SEGMENT_BYTES`` an option of the storage;
``MQCORE_LISTEN_0_MODE`` one of the first listener; ``MQCORE_TOPICS_ORDERS_FLUSH`` a key of topic ``orders``, whatever
its case and punctuation. Short forms work: ``MQCORE_STORAGE`` (a URL), ``MQCORE_LISTEN`` (URLs, by comma),
``MQCORE_FLUSH``. Must not know the values' meaning.

Kubernetes and Docker put variables of their own into every container beside a service whose name begins with
``mqcore``; they come in sets of known names, and whole sets are passed over.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from mqcore.abc import TlsOptions
from mqcore.config._access import AccessTable, LoginTable
from mqcore.config._cluster import ClusterTable
from mqcore.config._model import BrokerConfig, FlushTable, ReplicationTable, RetentionTable, TopicConfig
from mqcore.errors import ConfigurationError
from mqcore.limits import Limits

__all__ = ["PREFIX", "read_environment", "variable_of"]

PREFIX = "MQCORE_"
FOREIGN = (
    "SERVER",
    "CONFIG",
    "OUTPUT",
    "TRACEBACK",
    "USER",
    "PASSWORD_FILE",
    "TOKEN_FILE",
    "USERS_FILE",
    "TEST_",
    "BENCH_",
    "CONFORMANCE_",
)
"""Variables after the prefix that other parts of the project read; an ending ``_`` stands for all that begin so."""

_TIME_SUFFIXES = ("_ms", "_us")
_TABLES: Mapping[str, type[Any]] = {
    "tls": TlsOptions,
    "flush": FlushTable,
    "replication": ReplicationTable,
    "retention": RetentionTable,
    "limits": Limits,
    "cluster": ClusterTable,
    "access": AccessTable,
}
_NESTED = ("sets", "authenticators", "rules", "login")
"""Keys whose tables no variable could write."""
_PLAIN = ("name", "insecure", "http", "offset_store", "log_level", "survive", "flush", "replication")


def variable_of(path: Sequence[str]) -> str:
    """Return the variable that overrides the key at ``path``."""
    return PREFIX + "_".join(re.sub(r"[^A-Z0-9]", "_", part.upper()) for part in path)


def read_environment(
    environment: Mapping[str, str], topics: Sequence[str], listeners: Sequence[object]
) -> dict[str, object]:
    """Return the keys that variables called ``MQCORE_...`` set; ``topics`` are the names that may be meant,
    ``listeners`` the tables that an earlier source has.

    Raises ``ConfigurationError`` for a variable that is no key, and one that could mean two topics.
    """
    known = _known(topics)
    injected = _injected(environment)
    result: dict[str, Any] = {}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or _is_foreign(variable.removeprefix(PREFIX)) or variable in injected:
            continue
        path = known.get(variable) or _part_option(variable)
        if path is None:
            hint = _hint(variable, known)
            raise ConfigurationError(f"environment: {variable} is no key of the configuration; {hint}")
        _set(result, path, environment[variable])
    return _listen_as_list(result, listeners)


def _hint(variable: str, known: Mapping[str, object]) -> str:
    readable = [*known, *(PREFIX + name for name in FOREIGN if not name.endswith("_"))]
    near = difflib.get_close_matches(variable, readable, 1, cutoff=0.8)
    if near:
        return f"did you mean {near[0]}?"
    example = f"{variable_of(['limits', 'frame_bytes_max'])} is limits.frame_bytes_max"
    return f"'mqcore config init' writes a file with all of them ({example})"


def _injected(environment: Mapping[str, str]) -> set[str]:
    """Return the variables that Kubernetes or Docker set for services whose names begin with ``mqcore``.

    A service is known by what cannot be a key of ours: its host and port together, or a port that is the address of a
    link with its parts beside it. A single variable that looks like one of these is no set, and stays an error.
    """
    injected: set[str] = set()
    for variable, value in environment.items():
        service = variable.removesuffix("_SERVICE_HOST")
        if service != variable and f"{service}_SERVICE_PORT" in environment:
            injected |= _of_service(service, environment)
        service = variable.removesuffix("_PORT")
        link = re.fullmatch(r"(tcp|udp|sctp)://.+:([0-9]+)", value) if service != variable else None
        if link is not None and f"{service}_PORT_{link[2]}_{link[1].upper()}_ADDR" in environment:
            injected |= _of_service(service, environment)
    return injected


def _of_service(service: str, environment: Mapping[str, str]) -> set[str]:
    if not f"{service}_".startswith(PREFIX):
        return set()
    name = re.escape(service)
    ports = "PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
    pattern = re.compile(rf"{name}_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|{ports}|ENV_.*)")
    found = {variable for variable in environment if pattern.fullmatch(variable)}
    # Docker's name of a link is a path (/web/mqcore), which no name of a broker is.
    return found | {each for each in [f"{service}_NAME"] if environment.get(each, "").startswith("/")}


def _is_foreign(name: str) -> bool:
    return any(name.startswith(word) if word.endswith("_") else name == word for word in FOREIGN)


def _known(topics: Sequence[str]) -> dict[str, tuple[str, ...]]:
    paths: list[tuple[str, ...]] = [(name,) for name in _PLAIN]
    paths += [("storage", "url"), ("listen",), ("cluster", "coordinator", "url")]
    paths += [(table, key) for table, cls in _TABLES.items() for key in _keys(cls)]
    paths += [("access", "login", key) for key in _keys(LoginTable)]
    paths += [("topics", topic, key) for topic in topics for key in _keys(TopicConfig)]
    known: dict[str, tuple[str, ...]] = {"MQCORE_STORAGE": ("storage", "url")}
    for path in paths:
        variable = variable_of(path)
        if known.setdefault(variable, path) != path:
            raise ConfigurationError(
                f"environment: {variable} could mean {'.'.join(known[variable])} and {'.'.join(path)}; rename a topic"
            )
    return known


def _keys(cls: type[Any]) -> list[str]:
    names = [field.name for field in attrs.fields(cls)]
    bare = [name.removesuffix(suffix) for name in names for suffix in _TIME_SUFFIXES if name.endswith(suffix)]
    return [name for name in names + [each for each in bare if each not in names] if name not in _NESTED]


def _part_option(variable: str) -> tuple[str, ...] | None:
    """Return the path of an option of the storage or of one listener: their names are the parts' own."""
    if match := re.fullmatch(r"MQCORE_STORAGE_([A-Z0-9_]+)", variable):
        return ("storage", match[1].lower())
    if match := re.fullmatch(r"MQCORE_LISTEN_([0-9]{1,3})_([A-Z0-9_]+)", variable):
        return ("listen_options", match[1], match[2].lower())
    return None


def _set(result: dict[str, Any], path: tuple[str, ...], text: str) -> None:
    if path == ("listen",):
        result["listen"] = [url.strip() for url in text.split(",") if url.strip()]
        return
    if path[0] in ("flush", "replication"):
        path = (path[0], "policy") if len(path) == 1 else path
    table = result
    for name in path[:-1]:
        table = table.setdefault(name, {})
    table[path[-1]] = text


def _listen_as_list(result: dict[str, Any], listeners: Sequence[object]) -> dict[str, object]:
    """Lay the options of single listeners over those that ``MQCORE_LISTEN``, else an earlier source, names."""
    options = result.pop("listen_options", {})
    if not options:
        return result
    tables: list[Any] = [{"url": url} for url in result["listen"]] if "listen" in result else list(listeners)
    for index, given in options.items():
        if int(index) >= len(tables):
            variable = variable_of(["listen", index, next(iter(given))])
            raise ConfigurationError(f"environment: {variable}: there are {len(tables)} listeners, counted from 0")
        table = dict(tables[int(index)])
        options_of_table = table.pop("options", {})
        tables[int(index)] = {**table, **options_of_table, **given}
    result["listen"] = tables
    return result


assert {*_PLAIN, *_TABLES, "storage", "listen", "topics"} == {field.name for field in attrs.fields(BrokerConfig)}
