"""Coordinator and offset store on ZooKeeper, version 3.5 or newer: kazoo's serializers on Trio sockets, no thread."""

from mqcore_zookeeper._coordinator import ZookeeperCoordinator
from mqcore_zookeeper._offset_store import ZookeeperOffsetStore

__all__ = ["ZookeeperCoordinator", "ZookeeperOffsetStore"]
