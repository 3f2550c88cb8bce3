"""The configuration file of a cluster: one file, the same for all of its nodes but for the name and the storage.

What is written here is what is read: tests load every example back, as each of its nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mqcore.guarantees.policies import AsyncReplication, NoReplication, ReplicationPolicy
from mqcore.guarantees.policy_text import format_replication

__all__ = ["cluster_example"]

_HEAD = """\
# Configuration of every node of a cluster: the same file on each, but for `name` and where it stores.
# `mqcore serve --config FILE --name {other}` runs another node of it, MQCORE_NAME={other} does the same.
# When all of them run, `mqcore cluster init` begins each set, once: before that nothing is taken in.
# `mqcore explain FILE` says what an acknowledgement means; `mqcore config init` writes every other key.

# Name of this node: one of those below.
name = "{name}"

[storage]
url = "{storage}"
"""

_REPLICATION = """
# When an acknowledgement waits for other nodes; a topic may have its own, as in
# replication = "{text}".
[replication]
{keys}
"""

_CLUSTER = """
[cluster]
# Who settles which node of a set is the primary: a coordinator, and then a set that lost its primary takes
# another by itself; or "manual", and then an operator does (`mqcore cluster promote`).
coordinator = "{coordinator}"
"""

_SET = """
# A replica set: one primary and its replicas. The partitions of a topic are spread over the sets.
[[cluster.sets]]
name = "{name}"
"""

_NODE = """
[[cluster.sets.nodes]]
name = "{name}"
urls = ["{url}"]   # where clients and the other nodes reach it
"""


def cluster_example(
    sets: Mapping[str, Sequence[tuple[str, str]]],
    *,
    name: str | None = None,
    storage: str = "mmap:///var/lib/mqcore",
    coordinator: str = "manual",
    replication: ReplicationPolicy = NoReplication(),  # noqa: B008 - a frozen value without fields
) -> str:
    """Return the file of a cluster with these ``sets``: for each its nodes, their names and URLs.

    ``name``: of the node that the file is for, by default the first.
    """
    names = [node for nodes in sets.values() for node, _ in nodes]
    own = names[0] if name is None else name
    other = next((each for each in names if each != own), own)
    parts = [_HEAD.format(name=own, other=other, storage=storage)]
    if not isinstance(replication, NoReplication):
        parts.append(_REPLICATION.format(text=format_replication(replication), keys=_keys(replication)))
    parts.append(_CLUSTER.format(coordinator=coordinator))
    for set_name, nodes in sets.items():
        parts.append(_SET.format(name=set_name))
        parts += [_NODE.format(name=node, url=url) for node, url in nodes]
    return "".join(parts)


def _keys(policy: ReplicationPolicy) -> str:
    """The policy as keys of its table: the words of its text, a line each."""
    kind, _, arguments = format_replication(policy).rstrip(")").partition("(")
    lines = [f'policy = "{kind}"']
    for item in arguments.split(", "):
        key, _, value = item.partition("=")
        lines.append(f"{key} = {value}" if value.isdigit() else f'{key} = "{value}"')
    if isinstance(policy, AsyncReplication):
        lines[-1] += "   # report: acknowledgements go on; throttle: they wait while a replica trails farther"
    else:
        lines[-1] += "   # while too few nodes are in sync: sends block (wait), or reject"
    return "\n".join(lines)
