"""Of each node of a set, who may follow its primary as that node. Opens nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mqcore.config import BrokerConfig

__all__ = ["nodes_as_json", "nodes_in_words"]


def nodes_as_json(config: BrokerConfig) -> list[dict[str, object]]:
    """Return of each node of the own set its name, and its principal if it names one."""
    own_set = config.own_set
    return [] if own_set is None else [{"name": each.name, "principal": each.principal} for each in own_set.nodes]


def nodes_in_words(config: BrokerConfig) -> list[str]:
    """Return a line for each node of the own set, under a heading; nothing where there is one node only."""
    told = nodes_as_json(config)
    if len(told) < 2:
        return []
    anybody = "whoever may replicate" if config.access is not None else "whoever comes in"
    lines = ["", "Nodes"]
    for each in told:
        who = f"only {each['principal']}" if each["principal"] else f"open, as it has no principal: {anybody}"
        lines.append(f"  {each['name']}: {who} may follow as this node")
    return lines
