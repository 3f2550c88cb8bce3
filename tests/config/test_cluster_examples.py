"""docs/examples: four ways to run a cluster (mission, rows 12 to 15) in one shape, each loaded as each of its nodes.

With MQCORE_TEST_UPDATE set, the files are written instead of compared.
"""

import os
from pathlib import Path

import pytest

from mqcore.abc import Capabilities
from mqcore.config import build_of, cluster_example, load_config
from mqcore.guarantees import (
    AsyncReplication,
    Fault,
    Level,
    LossExtent,
    NoReplication,
    SyncReplication,
    check_available,
    check_build,
    promise_tables,
)

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
FILE = Capabilities(append_level=Level.PAGE_CACHE, flush_level=Level.DISK)
ETCD = "etcd://10.0.0.9:2379"
SYNC = SyncReplication(copies=2, level=Level.DISK)
TRIO = {"a": [(name, f"tcp://127.0.0.1:{7400 + number}") for number, name in enumerate("abc")]}


def several(sets: int, nodes: int) -> dict[str, list[tuple[str, str]]]:
    """Sets a, b, ... with nodes a1, a2, ... at hosts of their own."""
    return {
        letter: [(f"{letter}{number}", f"tcp://{letter}{number}.example:7400") for number in range(1, nodes + 1)]
        for letter in "abc"[:sets]
    }


FILES = {
    "single-primary.toml": cluster_example(several(1, 1)),
    "several-primaries.toml": cluster_example(several(3, 1)),
    "several-primaries-async-replicas.toml": cluster_example(
        several(2, 2), coordinator=ETCD, replication=AsyncReplication(max_delay_ms=500, on_exceeded="throttle")
    ),
    "several-primaries-sync-replicas.toml": cluster_example(several(2, 3), coordinator=ETCD, replication=SYNC),
    **{
        f"{name}.toml": cluster_example(
            TRIO, name=name, storage=f"mmap:///tmp/mqcore-{name}", coordinator="etcd://127.0.0.1:2379", replication=SYNC
        )
        for name in "abc"
    },
}


@pytest.mark.needs("source-tree")
@pytest.mark.parametrize("name", FILES)
def test_the_examples_are_what_config_init_writes(name: str) -> None:
    if "MQCORE_TEST_UPDATE" in os.environ:
        (EXAMPLES / name).write_text(FILES[name])
    assert (EXAMPLES / name).read_text() == FILES[name]
    assert {path.name for path in EXAMPLES.glob("*.toml")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_the_file_of_each_of_its_nodes(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FILES[name])
    first = load_config(path)
    assert first.cluster is not None
    for each in first.cluster.sets:
        for node in each.nodes:
            config = load_config(path, environment={"MQCORE_NAME": node.name})
            assert config.own_set == each
            assert tuple(listen.url for listen in config.listen) == node.urls
            build = build_of(config, FILE)
            assert [*check_build(build), *check_available(build)] == []


def test_rows_12_to_15_promise_what_their_names_say(tmp_path: Path) -> None:
    losses = {}
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
        build = build_of(load_config(tmp_path / name), FILE)
        (table,) = promise_tables(build)
        losses[name] = table.promise(Fault.HOST_LOSS).loss
    assert losses["single-primary.toml"] is LossExtent.EVERYTHING
    assert losses["several-primaries.toml"] is LossExtent.EVERYTHING
    assert losses["several-primaries-async-replicas.toml"] is LossExtent.BOUNDED
    assert losses["several-primaries-sync-replicas.toml"] is LossExtent.NOTHING


@pytest.mark.parametrize("policy", [NoReplication(), AsyncReplication(), SYNC, SyncReplication(on_missing="reject")])
def test_the_policy_is_the_one_that_was_asked_for(policy: object, tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(cluster_example(several(1, 3), replication=policy))  # type: ignore[arg-type]
    assert load_config(path).replication.value == policy
