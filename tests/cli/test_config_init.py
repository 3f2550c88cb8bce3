"""mqcore config init --cluster: one file for all nodes, which explain and serve take as it is."""

from __future__ import annotations

import tomllib

import pytest


def test_a_cluster_file_has_the_sets_and_nodes_that_were_asked_for(cli, tmp_path):
    written = cli("config", "init", "--cluster", "--sets", "2", "--nodes", "2", "--to", tmp_path)
    assert written.status == 0, written.err
    tables = tomllib.loads((tmp_path / "cluster.toml").read_text())
    assert [[node["name"] for node in each["nodes"]] for each in tables["cluster"]["sets"]] == [
        ["a1", "a2"], ["b1", "b2"],
    ]  # fmt: skip
    assert tables["replication"]["policy"] == "sync"
    explained = cli("explain", tmp_path / "cluster.toml", "--name", "b2", "--storage", f"mmap://{tmp_path}/b2")
    assert explained.status == 0, explained.err
    assert "2 nodes. Failover is by hand" in explained.out
    again = cli("config", "init", "--cluster", "--to", tmp_path)
    assert (again.status, "--force replaces it" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--coordinator", "etcd.example:2379", "is not a URL of a part"),
        ("--replication", "twice", "unknown replication policy 'twice'"),
    ],
)
def test_what_would_not_be_read_is_not_written(cli, tmp_path, option, value, said):
    refused = cli("config", "init", "--cluster", option, value, "--to", tmp_path)
    assert (refused.status, said in refused.err, list(tmp_path.iterdir())) == (2, True, [])


@pytest.mark.parametrize(
    ("option", "value"),
    [("--sets", "1"), ("--nodes", "2"), ("--coordinator", "manual"), ("--replication", "sync")],
)
def test_what_is_of_a_cluster_is_not_left_out_without_a_word_of_the_file_of_one_broker(cli, tmp_path, option, value):
    refused = cli("config", "init", option, value, "--to", tmp_path)
    assert (refused.status, f"{option} is of a cluster: with --cluster" in refused.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_explain_refuses_a_coordinator_that_is_not_there_and_two_nodes_that_fail_over_by_themselves(cli, tmp_path):
    assert cli("config", "init", "--cluster", "--nodes", "2", "--to", tmp_path).status == 0
    file = tmp_path / "cluster.toml"
    unknown = cli("explain", file, "--set", "cluster.coordinator=oracle://delphi")
    assert (unknown.status, "oracle" in unknown.err) == (2, True)
    alone = cli("explain", file, "--set", "cluster.failover=automatic")
    assert (alone.status, "two that lose sight of each other" in " ".join(alone.out.split())) == (3, True)


@pytest.mark.parametrize(
    ("coordinator", "said"),
    [
        ("etc://10.0.0.9:2379", "did you mean 'etcd'?"),
        ("oracle://delphi", "etcd, file, manual, memory, postgres, zookeeper"),
    ],
)
def test_a_coordinator_that_no_part_serves_is_refused_with_those_that_there_are(cli, tmp_path, coordinator, said):
    refused = cli("config", "init", "--cluster", "--coordinator", coordinator, "--to", tmp_path)
    assert refused.status != 0
    assert said in refused.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--nodes", "2", "--replication", "sync(copies=3)"], 3, "2 nodes cannot hold 3 copies; add nodes, or ask for"),
        (
            ["--nodes", "1", "--replication", "sync"],
            3,
            '1 node cannot hold 2 copies; add nodes, or write replication = "n',
        ),
        (["--nodes", "1", "--replication", "async(max_delay=1s, on_exceeded=throttle)"], 3, "would wait for ever"),
        (["--replication", "sync(level=mirror)"], 3, "reaches disk at best"),
        (["--storage", "memory://"], 3, "reaches memory at best"),
        (["--coordinator", "memory://one"], 3, "lives within one program"),
        (["--coordinator", "file://relative"], 2, "needs an absolute path"),
        (["--storage", "nosuch:///x"], 2, "no storage backend is called 'nosuch'"),
        (["--storage", "raid:///x"], 2, "needs two members at least"),
        (["--storage", "mmap://"], 2, "needs an absolute path"),
    ],
)
def test_what_serve_would_refuse_is_refused_in_the_same_words_and_not_written(cli, tmp_path, options, status, said):
    refused = cli("config", "init", "--cluster", *options, "--to", tmp_path / "made")
    assert (refused.status, said in refused.err) == (status, True), refused.err
    assert len(refused.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_storage_of_a_broker_that_is_alone_is_looked_at_too(cli, tmp_path):
    for storage, said in (("nosuch:///x", "'nosuch'"), ("mmap://", "needs an absolute path"), ("raid:///x", "two")):
        refused = cli("config", "init", "--storage", storage, "--to", tmp_path)
        assert (refused.status, said in refused.err, list(tmp_path.iterdir())) == (2, True, []), refused.err


def test_a_file_is_written_for_a_machine_that_is_not_this_one(cli, tmp_path, monkeypatch):
    # The storage need not be here, nor what the environment says of a broker of this machine.
    monkeypatch.setenv("MQCORE_STORAGE", "nosuch:///x")
    assert cli("config", "init", "--cluster", "--storage", "mmap:///nowhere/at/all", "--to", tmp_path).status == 0


def test_a_coordinator_within_one_program_is_refused_for_nodes_that_are_programs_of_their_own(cli, tmp_path):
    assert cli("config", "init", "--cluster", "--to", tmp_path).status == 0
    memory = ("--set", "cluster.coordinator=memory://one")
    for verb in ("explain", "serve"):
        refused = cli(verb, tmp_path / "cluster.toml", "--name", "a1", "--storage", f"mmap://{tmp_path}/s", *memory)
        assert (refused.status, "lives within one program" in refused.err) == (3, True), refused.err
        assert not (tmp_path / "s").exists()


def test_a_storage_scheme_that_is_nearly_one_is_refused_with_the_one_that_was_meant(cli):
    refused = cli("serve", "--storage", "mmpa:///tmp/nowhere")
    assert "did you mean 'mmap'?" in refused.err
    assert refused.status != 0
