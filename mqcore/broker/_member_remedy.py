"""What to do about a storage that cannot be used, where the node is a member of a set: not what one alone would do.

A part of a storage knows nothing of other nodes, so its remedy is a copy to restore. In a set the other members have
what the node held and more; a copy is of the past, and would be taken for the node that reported what came later (R2).
"""

from __future__ import annotations

from mqcore.config import BrokerConfig
from mqcore.errors import CorruptionError, MqcoreError, StorageError

__all__ = ["tell_member_remedy"]


def tell_member_remedy(error: MqcoreError, config: BrokerConfig) -> None:
    """Have ``error`` say how a member of a set gets over it, if that is what the node of ``config`` is."""
    own_set = config.own_set
    is_lost = isinstance(error, CorruptionError) or (isinstance(error, StorageError) and error.kind == "missing")
    if own_set is None or len(own_set.nodes) < 2 or not is_lost or "mqcore replica add" in str(error):
        return
    error.args = (
        f"{error}. But this node is a member of the set {own_set.name!r}: while another member is whole, restore "
        f"nothing; move its storage away, start it with an empty one, and 'mqcore replica add {config.name} --wait'",
    )
