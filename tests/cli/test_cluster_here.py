"""mqcore serve --cluster-here: what is planned, what is refused before anything runs."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mqcore.cli._cluster_here import FIRST_PORT, ClusterPlan
from mqcore.config import load_config
from mqcore.errors import CommandNotPossibleError, ConfigurationError
from mqcore.guarantees import AsyncReplication, Level, NoReplication, SyncReplication

FLAGS = {"flush": None, "survive": (), "limit": (), "keys": ()}


def plan(folder: Path, count: int = 3, **options: object) -> ClusterPlan:
    return ClusterPlan.of(count, folder, {**FLAGS, **options})


def free_ports(count: int) -> int:
    """The first of so many ports in a row that are free."""
    for first in range(20_000, 30_000, 10):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for number, each in enumerate(sockets):
                each.bind(("127.0.0.1", first + number))
        except OSError:
            continue
        else:
            return first
        finally:
            for each in sockets:
                each.close()
    raise AssertionError("no ports")


def test_the_nodes_share_one_file_and_store_below_one_folder(tmp_path: Path) -> None:
    first = free_ports(3)
    made = plan(tmp_path, listen=[f"tcp://127.0.0.1:{first}"], flush="sync", limit=("connections_max=100",))
    assert [url for _, url, _ in made.nodes] == [f"tcp://127.0.0.1:{first + number}" for number in range(3)]
    assert [storage for _, _, storage in made.nodes] == [f"mmap://{tmp_path}/{name}" for name in "abc"]
    made.write()
    for name, url, storage in made.nodes:
        config = load_config(made.file, overrides={"name": name, "storage": storage})
        assert [listen.url for listen in config.listen] == [url]
        assert config.replication.value == SyncReplication(copies=2, level=Level.DISK)
    kept = plan(tmp_path, offset_store="sqlite:///tmp/o.db").command("b", "memory://")
    assert kept[-2:] == ["--offset-store", "sqlite:///tmp/o.db"]
    assert made.command("b", "memory://")[-4:] == ["--flush", "sync", "--limit", "connections_max=100"]


def test_the_default_policy_is_what_the_storage_and_the_nodes_can_keep(tmp_path: Path) -> None:
    assert plan(tmp_path, storage="memory://").replication == SyncReplication(level=Level.MEMORY)
    assert plan(tmp_path, storage="memory://").nodes[1][2] == "memory://"
    assert plan(tmp_path, 1).replication == NoReplication()
    assert plan(tmp_path, replication="async").replication == AsyncReplication()
    with pytest.raises(ConfigurationError, match="--replication: unknown"):
        plan(tmp_path, replication="twice")


def test_ports_that_are_asked_for_and_in_use_are_named_and_others_are_looked_for_where_none_is(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandNotPossibleError, match=f"port {port} of 127.0.0.1 is in use"):
            plan(tmp_path, listen=[f"tcp://127.0.0.1:{port}"])
    try:
        taken = socket.create_server(("127.0.0.1", FIRST_PORT + 1))
    except OSError:
        return  # in use already, which is as good
    with taken:
        urls = [url for _, url, _ in plan(tmp_path).nodes]
    assert len(set(urls)) == 3
    assert f"tcp://127.0.0.1:{FIRST_PORT + 1}" not in urls


@pytest.mark.parametrize(
    "listen", [["unix:///run/mq.sock"], ["tcp://0.0.0.0:7400"], ["tcp://127.0.0.1:1", "tcp://[::1]:1"]]
)
def test_only_ports_in_a_row_of_this_machine_are_listened_on(tmp_path: Path, listen: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="ports in a row"):
        plan(tmp_path, listen=listen)


def test_the_command_refuses_what_it_writes_itself(cli, tmp_path):
    for extra in (["--name", "x"], ["--config", "broker.toml"], ["broker.toml"]):
        refused = cli("serve", "--cluster-here", "2", *extra)
        assert (refused.status, "leave the file and --name out" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("count", "given", "status", "said"),
    [
        (3, ["--replication", "sync(copies=5)"], 3, "3 nodes cannot hold 5 copies"),
        (1, ["--replication", "sync"], 3, "1 node cannot hold 2 copies"),
        (3, ["--storage", "memory://", "--replication", "sync(level=disk)"], 3, "reaches memory at best"),
        (3, ["--storage", "memory://", "--flush", "sync"], 3, "flush"),
        (3, ["--set", "cluster.nosuch=1"], 2, "nosuch"),
        (3, ["--limit", "frame_bytes_max=1"], 2, "frame_bytes_max"),
    ],
)
def test_what_every_node_would_refuse_is_refused_before_one_is_started(
    cli, tmp_path, monkeypatch, count, given, status, said
):
    monkeypatch.setattr("mqcore.cli._cluster_here.ClusterHere.run", None)
    if "--storage" not in given:
        given = [*given, "--storage", f"mmap://{tmp_path}/s"]
    refused = cli("serve", "--cluster-here", count, *given)
    assert (refused.status, said in refused.err) == (status, True), refused.err
    assert len(refused.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--tls-cert", "--tls-key", "--client-ca", "--ca", "--insecure"])
def test_what_would_be_without_effect_is_refused_by_name(cli, option):
    given = (option,) if option == "--insecure" else (option, "/x.pem")
    refused = cli("serve", "--cluster-here", "3", *given)
    assert refused.status == 2
    assert f"{option} is without effect on --cluster-here" in refused.err
