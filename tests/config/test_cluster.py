"""Table [cluster]: the sets, the node's own place in them, what of a cluster is refused, and with which remedy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mqcore.abc import Capabilities
from mqcore.config import BrokerConfig, ClusterTable, CoordinatorTable, TopicConfig, build_of, load_config, make_config
from mqcore.errors import ConfigurationError
from mqcore.guarantees import AsyncReplication, Level, SyncReplication, check_available, check_build

pytestmark = pytest.mark.quick

FILE = """
name = "a2"
storage = "mmap:///var/lib/mq"

[replication]
policy = "sync"
copies = 2
level = "disk"

[topics.clicks]
replication = "async(max_delay=1 s, on_exceeded=throttle)"

[cluster]
lease = "2 s"

[cluster.coordinator]
url = "etcd://10.0.0.9:2379"
prefix = "/shop"

[[cluster.sets]]
name = "a"

[[cluster.sets.nodes]]
name = "a1"
urls = ["tcp://10.0.0.1:7400"]

[[cluster.sets.nodes]]
name = "a2"
urls = ["tcp://10.0.0.2:7400", "tcp://a2.example:7400"]

[[cluster.sets]]
name = "b"
nodes = [{ name = "b1", urls = ["tcp://10.0.0.3:7400"] }]
"""
CAPABILITIES = Capabilities(append_level=Level.PAGE_CACHE, flush_level=Level.DISK)


def sets(*names: str) -> list[dict[str, object]]:
    """One set "a" with a node per name, each at inproc://NAME."""
    return [{"name": "a", "nodes": [{"name": name, "urls": [f"inproc://{name}"]} for name in names]}]


def configured(cluster: Mapping[str, object] | ClusterTable, **keys: Any) -> BrokerConfig:
    """A broker called a1 of that cluster, which listens at inproc://a1 unless ``keys`` say otherwise."""
    return make_config(**{"name": "a1", "storage": "memory://", "listen": "inproc://a1", "cluster": cluster, **keys})


def refused(cluster: Mapping[str, object], **keys: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        configured(cluster, **keys)
    return str(caught.value)


def test_a_cluster_is_read_whole_and_says_which_node_this_is(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(FILE)
    config = load_config(path)
    assert config.cluster is not None
    assert config.own_set is not None
    assert (config.own_set.name, [node.name for node in config.own_set.nodes]) == ("a", ["a1", "a2"])
    assert config.cluster.lease_ms == 2000
    assert config.cluster.coordinator == CoordinatorTable(url="etcd://10.0.0.9:2379", options={"prefix": "/shop"})
    assert config.cluster.fails_over
    throttled = AsyncReplication(max_delay_ms=1000, on_exceeded="throttle")
    assert config.topics["clicks"] == TopicConfig(replication=throttled)
    build = build_of(config, CAPABILITIES)
    assert (build.nodes, build.coordinator, build.failover) == (2, True, "automatic")
    assert build.replication_of(build.topics[0]) == throttled
    assert [*check_build(build), *check_available(build)] == []


def test_a_node_of_a_cluster_listens_where_its_set_says_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(FILE)
    assert [each.url for each in load_config(path).listen] == ["tcp://10.0.0.2:7400", "tcp://a2.example:7400"]
    assert [each.url for each in load_config(path, overrides={"name": "a1"}).listen] == ["tcp://10.0.0.1:7400"]
    assert configured({"sets": sets("a1")}, listen=["inproc://a1", "inproc://other"]).own_set is not None


def test_the_environment_names_the_coordinator_and_the_times(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(FILE)
    environment = {"MQCORE_CLUSTER_COORDINATOR": "manual", "MQCORE_CLUSTER_LEASE": "5 s", "MQCORE_NAME": "b1"}
    config = load_config(path, environment=environment)
    assert config.cluster is not None
    assert config.cluster.coordinator == CoordinatorTable()  # another URL does not inherit foreign options
    assert config.cluster.coordinator.is_manual
    assert not config.cluster.fails_over
    assert config.cluster.lease_ms == 5000
    assert config.own_set is not None
    assert config.own_set.name == "b"


def test_a_configuration_is_taken_as_values_too() -> None:
    config = configured({"sets": sets("a1", "a2"), "coordinator": "memory://x"})
    assert config.cluster is not None
    assert configured(config.cluster) == config


@pytest.mark.parametrize(
    ("cluster", "keys", "said"),
    [
        (
            {"sets": sets("a2", "a3")},
            {},
            "name = 'a1': the cluster has no node of that name; it has a2, a3: say which one this is (--name NAME)",
        ),
        ({"sets": sets("a1"), "set": "b"}, {}, "set = 'b' is none of the cluster's sets: a"),
        ({"sets": sets("a1", "a1")}, {}, "node 'a1' is given twice"),
        ({"sets": sets("a1") + sets("a2")}, {}, "set 'a' is given twice"),
        ({"sets": [{"name": "a", "nodes": []}]}, {}, "set 'a' has no nodes: write a table [[cluster.sets.nodes]]"),
        ({"sets": [{"name": "a b", "nodes": []}]}, {}, "name 'a b' cannot be a name: use letters"),
        ({"sets": [{"name": "a", "nodes": [{"name": "a1", "urls": []}]}]}, {}, "node 'a1' has no urls"),
        (
            {"sets": [{"name": "a", "nodes": [{"name": "a1", "urls": ["tcp://0.0.0.0:1"]}]}]},
            {},
            "tcp://0.0.0.0:1 is no address that another machine could reach",
        ),
        (
            {"sets": [{"name": "a", "nodes": [{"name": n, "urls": ["inproc://a1"]} for n in ("a1", "a2")]}]},
            {},
            "url 'inproc://a1' is given twice",
        ),
        ({}, {}, "sets must be given"),
        ({"sets": sets("a1"), "quorum": 2}, {}, "cluster.quorum: unknown key; allowed: set, coordinator"),
        ({"sets": sets("a1"), "lease_ms": 99}, {}, "'lease_ms' must be >= 100"),
        ({"sets": sets("a1"), "lease_ms": "2 h"}, {}, "'lease_ms' must be <= 3600000"),
        ({"sets": sets("a1"), "heartbeat_ms": 600}, {}, "one late heartbeat would outlast replica_timeout_ms = 1000"),
        (
            {"sets": sets("a1")},
            {"listen": "tcp://0.0.0.0:7400"},
            'tcp://0.0.0.0:7400: a wildcard address, and clients have to be sent to one: write advertise = "inproc://a1"',
        ),
        ({"sets": sets("a1")}, {"listen": "inproc://x"}, "no listener of it has or advertises that: listen there"),
    ],
)
def test_g18_what_cannot_be_a_cluster_is_refused_with_the_value(
    cluster: dict[str, object], keys: dict[str, Any], said: str
) -> None:
    assert said in refused(cluster, **keys)


@pytest.mark.parametrize("wildcard", ["tcp://0.0.0.0:7400", "tcp://[::]:7400", "tcp://:7400", "tcp://*:7400"])
def test_a_wildcard_listens_in_a_cluster_with_the_url_that_clients_are_sent_to(wildcard: str) -> None:
    nodes = [{"name": "a1", "urls": ["tcp://10.0.0.1:7400"]}]
    cluster = {"sets": [{"name": "a", "nodes": nodes}]}
    assert "wildcard" in refused(cluster, listen=wildcard)
    listener = {"url": wildcard, "advertise": "tcp://10.0.0.1:7400", "nodelay": True}
    (table,) = configured(cluster, listen=listener).listen
    assert (table.advertise, table.options) == ("tcp://10.0.0.1:7400", {"nodelay": True})
    assert make_config(storage="memory://", listen=wildcard).own_set is None  # alone, no client is sent anywhere


def test_an_advertised_url_is_set_by_the_environment_too(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(FILE + '[[listen]]\nurl = "tcp://0.0.0.0:7400"\nnodelay = true\n')
    with pytest.raises(ConfigurationError, match="wildcard"):
        load_config(path, overrides={"name": "a1"})
    environment = {"MQCORE_LISTEN_0_ADVERTISE": "tcp://10.0.0.1:7400"}
    (listener,) = load_config(path, overrides={"name": "a1"}, environment=environment).listen
    assert (listener.advertise, listener.options) == ("tcp://10.0.0.1:7400", {"nodelay": True})


def test_g18_a_set_of_one_takes_no_synchronous_replication_and_two_need_an_arbiter_to_fail_over() -> None:
    alone = build_of(configured({"sets": sets("a1")}, replication=SyncReplication()), CAPABILITIES)
    (refusal,) = check_build(alone)
    assert "1 node cannot hold 2 copies" in refusal.message
    pair = build_of(configured({"sets": sets("a1", "a2"), "failover": "automatic"}), CAPABILITIES)
    (refusal,) = check_build(pair)
    assert refusal.name == "no-arbiter"
