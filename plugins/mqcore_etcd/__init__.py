"""Coordinator on etcd, version 3.4 or newer, over its JSON gateway: HTTP by h11 on Trio sockets, no thread, no gRPC."""

from mqcore_etcd._coordinator import EtcdCoordinator

__all__ = ["EtcdCoordinator"]
