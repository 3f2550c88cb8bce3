"""Configuration of a broker: the keys, where they are read from, and the one commented example file."""

from mqcore.config._access import AccessTable, AuthenticatorTable, LoginTable
from mqcore.config._build import build_of
from mqcore.config._cluster import ClusterTable, CoordinatorTable, NodeTable, SetTable
from mqcore.config._cluster_example import cluster_example
from mqcore.config._example import commented_example, keys_as_markdown, limits_as_markdown, parts_as_markdown
from mqcore.config._load import load_config, make_config, read_toml
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
from mqcore.config._names import check_topic_name
from mqcore.config._show import changed_keys, flat_keys, keys_as_toml

__all__ = [
    "AccessTable",
    "AuthenticatorTable",
    "DEFAULT_LISTEN",
    "BrokerConfig",
    "ClusterTable",
    "CoordinatorTable",
    "FlushTable",
    "ListenTable",
    "LoginTable",
    "NodeTable",
    "ReplicationTable",
    "RetentionTable",
    "SetTable",
    "StorageTable",
    "TopicConfig",
    "build_of",
    "changed_keys",
    "check_topic_name",
    "cluster_example",
    "commented_example",
    "flat_keys",
    "keys_as_markdown",
    "keys_as_toml",
    "limits_as_markdown",
    "load_config",
    "make_config",
    "parts_as_markdown",
    "read_toml",
]
