"""Table ``[cluster]``: the replica sets of a cluster, their nodes, and who settles which node of a set is the primary.

Every node of a cluster has the same sets in its file; the broker's own ``name`` says which of the nodes it is. Must not
know how a set is run, nor which coordinators there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import attrs
from attrs import validators

from mqcore.errors import ConfigurationError
from mqcore.url import Url

__all__ = ["NAME_PATTERN", "ClusterTable", "CoordinatorTable", "NodeTable", "SetTable", "check_own_node"]

NAME_PATTERN = r"[A-Za-z0-9._-]{1,64}"
"""What a node and a set may be called."""
MANUAL = "manual"
_WILDCARDS = frozenset({"", "*", "0.0.0.0", "::", "[::]"})


def _number(default: int, help: str, *, at_least: int = 1, at_most: int = 3_600_000) -> int:
    bounds = validators.and_(validators.ge(at_least), validators.le(at_most))
    return attrs.field(default=default, validator=bounds, metadata={"help": help})


def _is_name(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not re.fullmatch(NAME_PATTERN, value):
        text = "letters A-Z a-z, digits, '.', '_' and '-', at most 64"
        raise ConfigurationError(f"{attribute.name} {value!a} cannot be a name: use {text}")


def _named(help: str) -> str:
    return attrs.field(validator=_is_name, metadata={"help": help})


def _bare(url: str) -> str:
    """Return ``url`` without its options: what one listener and the URL that leads to it have in common."""
    parsed = Url.parse(url)
    return f"{parsed.scheme}://{parsed.rest}"


def _is_wildcard(url: str) -> bool:
    """Whether ``url`` listens on every address of the machine: nothing that a client could be sent to."""
    rest = Url.parse(url).rest
    return not rest.startswith("/") and rest.rpartition(":")[0] in _WILDCARDS and ":" in rest


@attrs.frozen(kw_only=True)
class CoordinatorTable:
    """Table ``[cluster.coordinator]``, or its URL alone: the authority that keeps the record of each set."""

    url: str = attrs.field(
        default=MANUAL,
        metadata={"help": "the coordinator, as in etcd://10.0.0.5:2379; manual: an operator settles who is primary"},
    )
    options: Mapping[str, object] = attrs.field(
        factory=dict, metadata={"help": "options of the coordinator, as in its URL's query"}
    )

    def __attrs_post_init__(self) -> None:
        # One spelling inside: what opens a coordinator takes URLs.
        url = f"{MANUAL}://" if self.url == MANUAL else self.url
        Url.parse(url)
        object.__setattr__(self, "url", url)

    @property
    def is_manual(self) -> bool:
        """Whether an operator settles who is primary."""
        return Url.parse(self.url).scheme == MANUAL


@attrs.frozen(kw_only=True)
class NodeTable:
    """Table ``[[cluster.sets.nodes]]``: one broker of a set."""

    name: str = _named("name of the node: its broker's name")
    urls: tuple[str, ...] = attrs.field(metadata={"help": "where clients and the other nodes reach it, one or more"})
    principal: str | None = attrs.field(
        default=None,
        metadata={
            "help": "who it is to the others, as user:b: nobody else follows as this node; unset: who may replicate"
        },
    )

    def __attrs_post_init__(self) -> None:
        if self.principal is not None and not re.fullmatch(r"[^:]+:.+", self.principal):
            text = "write KIND:NAME, as the authenticators name whom they know, such as user:b"
            raise ConfigurationError(f"node {self.name!r}: principal = {self.principal!a}: {text}")
        if not self.urls:
            raise ConfigurationError(f"node {self.name!r} has no urls: name at least one, as in tcp://10.0.0.1:7400")
        for url in self.urls:
            if _is_wildcard(url):
                raise ConfigurationError(
                    f"node {self.name!r}: {url} is no address that another machine could reach: "
                    "write the one that it has there, and listen on the wildcard by [[listen]] with url and advertise"
                )


@attrs.frozen(kw_only=True)
class SetTable:
    """Table ``[[cluster.sets]]``: a replica set, one primary and its replicas."""

    name: str = _named("name of the set")
    nodes: tuple[NodeTable, ...] = attrs.field(metadata={"help": "its nodes, one table each"})

    def __attrs_post_init__(self) -> None:
        if not self.nodes:
            raise ConfigurationError(f"set {self.name!r} has no nodes: write a table [[cluster.sets.nodes]] for each")

    def node(self, name: str) -> NodeTable | None:
        """Return the node called ``name``, None when the set has none."""
        return next((node for node in self.nodes if node.name == name), None)


@attrs.frozen(kw_only=True)
class ClusterTable:
    """Table ``[cluster]``: the sets, which of them this node is in, and the times by which a set is run."""

    set: str | None = attrs.field(
        default=None,
        metadata={"help": "name of the set that this node is in; unset: the one with the broker's name"},
    )
    coordinator: CoordinatorTable = attrs.field(
        factory=CoordinatorTable,
        metadata={
            "help": "who settles which node of a set is the primary: manual, a URL, or a table with url and options"
        },
    )
    failover: Literal["automatic", "manual"] | None = attrs.field(
        default=None,
        metadata={"help": "whether a set that lost its primary takes another by itself; unset: with a coordinator"},
    )
    lease_ms: int = _number(10_000, "how long a primary reigns without word from the coordinator, in ms", at_least=100)
    clock_drift_ppm_max: int = _number(
        1_000,
        "most by which the rates of two clocks differ, in millionths; a vacant lease is waited for so much longer",
        at_least=0,
        at_most=100_000,
    )
    heartbeat_ms: int = _number(200, "longest silence between a primary and a replica that have nothing to say, in ms")
    replica_timeout_ms: int = _number(
        1_000, "silence after which a replica counts as gone and is taken out of the in-sync set, in ms"
    )
    sync_bytes_per_s: int | None = attrs.field(
        default=None,
        validator=validators.optional(validators.ge(1)),
        metadata={
            "help": "most that a replica is sent a second while it is filled, as at first; unset: no limit while "
            "nothing is sent to the set, else 64 MB or four times of that, so that acknowledgements do not wait for it"
        },
    )
    sets: tuple[SetTable, ...] = attrs.field(metadata={"help": "the replica sets of the cluster, one table each"})

    def __attrs_post_init__(self) -> None:
        _check_once("set", (each.name for each in self.sets))
        nodes = [node for each in self.sets for node in each.nodes]
        _check_once("node", (node.name for node in nodes))
        _check_once("url", (_bare(url) for node in nodes for url in node.urls))
        if self.set is not None and self.set not in {each.name for each in self.sets}:
            known = ", ".join(each.name for each in self.sets) or "none"
            raise ConfigurationError(f"set = {self.set!r} is none of the cluster's sets: {known}")
        if self.heartbeat_ms * 2 > self.replica_timeout_ms:
            raise ConfigurationError(
                f"heartbeat_ms = {self.heartbeat_ms}: one late heartbeat would outlast replica_timeout_ms = "
                f"{self.replica_timeout_ms}; write at most half of that"
            )

    def set_of(self, node: str) -> SetTable | None:
        """Return the set that has a node of this name, None when no set has."""
        return next((each for each in self.sets if each.node(node) is not None), None)

    def why_not(self, name: str, principal: str) -> str | None:
        """Return why ``principal`` may not follow as the node ``name``, with the remedy; None where it may.

        Where no node names its principal anybody may, as far as this goes.
        """
        nodes = [node for each in self.sets for node in each.nodes]
        wanted = next((node.principal for node in nodes if node.name == name), None)
        if wanted == principal:
            return None
        if wanted is not None:
            return (
                f"node {name} is {wanted}, and {principal} wants to follow as it: have that node come as {wanted}, or "
                "name another principal in its [[cluster.sets.nodes]]"
            )
        owned = [node.name for node in nodes if node.principal == principal]
        if not owned:
            return None
        return (
            f"{principal} is node {', '.join(owned)}, and wants to follow as node {name}: name it as principal of that "
            "one in [[cluster.sets.nodes]], or have that node come as somebody else"
        )

    @property
    def fails_over(self) -> bool:
        """Whether a set that lost its primary takes another by itself."""
        return self.failover == "automatic" or (self.failover is None and not self.coordinator.is_manual)


def _check_once(what: str, values: Iterable[str]) -> None:
    seen: dict[str, None] = {}
    for value in values:
        if value in seen:
            raise ConfigurationError(f"{what} {value!r} is given twice: each {what} of a cluster has its own")
        seen[value] = None


def check_own_node(cluster: ClusterTable, name: str, listening: Mapping[str, str | None]) -> None:
    """Raise ``ConfigurationError`` unless the node ``name`` is in its set and listens where its set says.

    ``listening``: the URL that clients are sent to (None: the listener's own), by URL of the listener.
    """
    own = cluster.set_of(name)
    if own is None or cluster.set not in (None, own.name):
        among = [each for each in cluster.sets if cluster.set in (None, each.name)]
        known = ", ".join(node.name for each in among for node in each.nodes) or "none"
        where = "the cluster" if cluster.set is None else f"set {cluster.set!r}"
        text = f"name = {name!r}: {where} has no node of that name; it has {known}"
        raise ConfigurationError(f"{text}: say which one this is (--name NAME)")
    node = own.node(name)
    assert node is not None
    for url, advertised in listening.items():
        if advertised is None and _is_wildcard(url):
            raise ConfigurationError(
                f"listen {url}: a wildcard address, and clients have to be sent to one: write advertise = "
                f'"{node.urls[0]}" beside it'
            )
    reached = {_bare(advertised or url) for url, advertised in listening.items()}
    for url in node.urls:
        if _bare(url) not in reached:
            raise ConfigurationError(
                f"node {name!r} is to be reached at {url}, and no listener of it has or advertises that: listen "
                f"there, or write advertise = {url!r} beside the listener that it leads to"
            )
