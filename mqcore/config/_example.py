"""The commented example file and the tables of the documentation, made from the metadata of the classes.

What is printed here is what is read: tests load the example back and compare the pages. Must not hold a key of its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import attrs

from mqcore.abc import AccessRule, TlsOptions
from mqcore.config._access import AccessTable, AuthenticatorTable, LoginTable
from mqcore.config._cluster import ClusterTable, CoordinatorTable, NodeTable, SetTable
from mqcore.config._environment import PREFIX, variable_of
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
from mqcore.limits import Limits
from mqcore.registry import OptionField, find, format_value, installed, option_fields

__all__ = [
    "EXAMPLE_STORAGE",
    "EXAMPLE_TOPIC",
    "commented_example",
    "keys_as_markdown",
    "limits_as_markdown",
    "parts_as_markdown",
]

EXAMPLE_STORAGE = "mmap:///var/lib/mqcore"
EXAMPLE_TOPIC = "example"

_WIDTH = 100
_HEAD = f"""\
Configuration of an mqcore broker: `mqcore serve --config FILE`, `mqcore explain FILE`.

Every key stands here with its default: take the "#" away in front of a key to change it.
Bytes: a number, or with B, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024).
Times: us, ms, s, m (minutes), h, d. A key that ends in _ms may leave that out: interval = "1 s".
Every key can be overridden by the environment, as {PREFIX}LIMITS_FRAME_BYTES_MAX, and by options of
the command line; these go first."""

_TABLES: tuple[tuple[str, str, type[Any]], ...] = (
    ("storage", "[storage]", StorageTable),
    ("listen", "[[listen]]", ListenTable),
    ("tls", "[tls]", TlsOptions),
    ("flush", "[flush]", FlushTable),
    ("replication", "[replication]", ReplicationTable),
    ("retention", "[retention]", RetentionTable),
    ("limits", "[limits]", Limits),
    ("topics", "[topics.NAME]", TopicConfig),
    ("cluster", "[cluster]", ClusterTable),
    ("access", "[access]", AccessTable),
)
_CLUSTER_TABLES: tuple[tuple[str, str, type[Any]], ...] = (
    ("who settles which node of a set is the primary", "[cluster.coordinator]", CoordinatorTable),
    ("the replica sets of the cluster, one table per set", "[[cluster.sets]]", SetTable),
    ("the nodes of a set, one table per node", "[[cluster.sets.nodes]]", NodeTable),
)
_ACCESS_TABLES: tuple[tuple[str, str, type[Any]], ...] = (
    ("ways of knowing who a peer is, one table each", "[[access.authenticators]]", AuthenticatorTable),
    ("what is allowed and what is denied, one table each", "[[access.rules]]", AccessRule),
    ("as whom this node logs in to the other nodes of its set", "[access.login]", LoginTable),
)
_TABLES_OF_THEIR_OWN = ("coordinator", "sets", "options", "authenticators", "rules", "login")


_REMARKS: Mapping[str, tuple[str, tuple[tuple[str, str, type[Any]], ...]]] = {
    "cluster": (
        "Nothing is set here: `mqcore config init --cluster` writes a file with sets in it.",
        (("", "[cluster]", ClusterTable), *_CLUSTER_TABLES),
    ),
    "access": (
        "Nothing is set here: everybody who reaches the broker may do everything. See docs/security.md.",
        (("", "[access]", AccessTable), *_ACCESS_TABLES),
    ),
}
"""What stands before the tables whose keys are only remarks, and those tables."""


def commented_example(storage: str = EXAMPLE_STORAGE) -> str:
    """Return the one commented configuration file: every key with its default, ``storage`` the only one that is set."""
    lines = [f"# {line}".rstrip() for line in _HEAD.splitlines()]
    table_names = {name for name, _, _ in _TABLES}
    for field in option_fields(BrokerConfig):
        if field.name not in table_names:
            lines += ["", *_key_lines(field)]
    for name, heading, cls in _TABLES:
        lines += ["", *_comment(_title(name))]
        if name == "storage":
            lines += [
                heading,
                f"url = {_toml(storage)}",
                *_key_lines(next(field for field in option_fields(cls) if field.name == "array")),
                *_comment("Options of the storage backend stand here too."),
            ]
            continue
        if name == "listen":
            lines += [
                f"#{heading}",
                f"#url = {_toml(DEFAULT_LISTEN)}",
                *_key_lines(next(field for field in option_fields(cls) if field.name == "advertise")),
                *_comment("Options of the transport stand here too."),
            ]
            continue
        if name in _REMARKS:
            lines += _lines_of_remarks(name)
            continue
        lines.append(f"#[topics.{EXAMPLE_TOPIC}]" if name == "topics" else heading)
        for field in option_fields(cls):
            lines += _key_lines(field)
    return "\n".join(lines) + "\n"


def _lines_of_remarks(name: str) -> list[str]:
    """The keys of a table that is never a default, with those below it, all as remarks."""
    first, tables = _REMARKS[name]
    lines = _comment(first)
    for title, heading, cls in tables:
        lines += [*(_comment(title) if title else ()), f"# {heading}"]
        for field in _keys_of(cls):
            key_lines = _comment(f"{field.name} = ...: {field.help}") if field.required else _key_lines(field)
            lines += [line if line.startswith("# ") else f"# {line.removeprefix('#')}" for line in key_lines]
    return lines


def _keys_of(cls: type[Any]) -> list[OptionField]:
    own = {"nodes"} if cls is SetTable else set()
    return [field for field in option_fields(cls) if field.name not in {*_TABLES_OF_THEIR_OWN, *own}]


def keys_as_markdown() -> str:
    """Return one table of keys per configuration table, as it stands in docs/composing.md."""
    table_names = {name for name, _, _ in _TABLES}
    blocks = [
        "### Top level\n\n" + _markdown([f for f in option_fields(BrokerConfig) if f.name not in table_names], ())
    ]
    for name, heading, cls in _TABLES:
        fields = _keys_of(cls)
        path = ("topics", "NAME") if name == "topics" else ("listen", "0") if name == "listen" else (name,)
        blocks.append(f"### `{heading}`\n\n{_sentence(_title(name))}\n\n" + _markdown(fields, path))
    for title, heading, cls in _CLUSTER_TABLES:
        place = ("cluster", "coordinator") if cls is CoordinatorTable else None
        blocks.append(f"### `{heading}`\n\n{_sentence(title)}\n\n" + _markdown(_keys_of(cls), place))
    for title, heading, cls in _ACCESS_TABLES:
        place = ("access", "login") if cls is LoginTable else None
        blocks.append(f"### `{heading}`\n\n{_sentence(title)}\n\n" + _markdown(_keys_of(cls), place))
    return "\n\n".join(blocks)


def parts_as_markdown(distribution: str = "mqcore") -> str:
    """Return one table of options per storage backend, transport and coordinator that ``distribution`` brings."""
    blocks = []
    for group, word, path in (
        ("storage", "Storage", ("storage",)),
        ("transports", "Transport", ("listen", "0")),
        ("coordinators", "Coordinator", ("cluster", "coordinator")),
    ):
        for item in installed(group):
            if item.distribution == distribution:
                fields = option_fields(find(group, item.name).options_class)
                table = _markdown(fields, path) if fields else "No options."
                blocks.append(f"### {word} `{item.name}`\n\n{table}")
    return "\n\n".join(blocks)


def limits_as_markdown() -> str:
    """Return the table of limits as it stands in docs/design/limits.md."""
    rows = ["| limit | default | least | bounds |", "|---|---|---|---|"]
    for field in option_fields(Limits):
        rows.append(f"| `{field.name}` | {_shown(field)} | {_least(field.name)} | {field.help} |")
    return "\n".join(rows)


def _title(name: str) -> str:
    heading = {
        "storage": "where messages are stored",
        "listen": "where the broker listens, one table per listener",
        "tls": "certificates of listeners that encrypt, and of this node when it connects to others of its set",
        "flush": "when an acknowledgement waits for the disk",
        "replication": "when an acknowledgement waits for other nodes",
        "retention": "how long and how much is kept, of topics that do not say; nothing is given up by default",
        "limits": "bounds of everything that could grow",
        "topics": "topics made at start if they are missing, one table per topic",
        "cluster": "the replica sets that this broker is in: the same in every node's file, see docs/replica-sets.md",
        "access": "who may connect, and what they may do: see docs/security.md",
    }
    return heading[name]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _key_lines(field: OptionField) -> list[str]:
    value = format_value(field.name, field.default)
    about = f"{field.help} ({field.allowed})"
    if value is None and not field.none_writable:
        return _comment(f"{field.name} (unset): {about}")
    return [*_comment(about), f"#{field.name} = {_toml('none' if value is None else value)}"]


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2, break_on_hyphens=False)]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _markdown(fields: list[OptionField], path: tuple[str, ...] | None) -> str:
    rows = ["| key | default | allowed | meaning | environment |", "|---|---|---|---|---|"]
    for field in fields:
        allowed = field.allowed.replace("|", "\\|")
        variable = "" if path is None else f"`{variable_of((*path, field.name))}`"
        rows.append(f"| `{field.name}` | {_shown(field)} | {allowed} | {field.help} | {variable} |")
    return "\n".join(rows)


def _shown(field: OptionField) -> str:
    if field.required:
        return "must be given"
    value = format_value(field.name, field.default)
    if value is None or value in ([], {}):
        return "`none`" if field.none_writable else "unset"
    return f"`{value}`"


def _least(name: str) -> str:
    validator: Any = attrs.fields_dict(Limits)[name].validator
    return str(format_value(name, validator.bound))
