"""Configuration of a broker: the keys, where they are read from, and the one commented example file."""

from mqcore.config._build import build_of
from mqcore.config._example import commented_example, keys_as_markdown, limits_as_markdown, parts_as_markdown
from mqcore.config._load import load_config, make_config, read_toml
from mqcore.config._model import (
    DEFAULT_LISTEN,
    BrokerConfig,
    FlushTable,
    ListenTable,
    ReplicationTable,
    StorageTable,
    TopicConfig,
)
from mqcore.config._names import check_topic_name

__all__ = [
    "DEFAULT_LISTEN",
    "BrokerConfig",
    "FlushTable",
    "ListenTable",
    "ReplicationTable",
    "StorageTable",
    "TopicConfig",
    "build_of",
    "check_topic_name",
    "commented_example",
    "keys_as_markdown",
    "limits_as_markdown",
    "load_config",
    "make_config",
    "parts_as_markdown",
    "read_toml",
]
