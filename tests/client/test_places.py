"""What a client knows of a cluster: owners, primaries, and what becomes of it when a server is gone."""

from __future__ import annotations

from mqcore.client._places import Places
from mqcore.operations import ClusterNode, ClusterSet, TopicInfo

ID = b"t" * 16


def info(owners: tuple[int, ...], *sets: ClusterSet) -> TopicInfo:
    return TopicInfo(name="t", id=ID.hex(), partitions=len(owners), config={}, sets=sets, owners=owners)


def a_set(name: str, *nodes: str, primary: str = "") -> ClusterSet:
    known = tuple(ClusterNode(name=node, urls=(f"tcp://{node}:1", f"tcp://{node}:2")) for node in nodes)
    return ClusterSet(name=name, nodes=known, primary=primary)


def primary_of(places: Places, partition: int) -> str | None:
    node = places.primary(ID, partition)
    return None if node is None else node.name


def test_each_partition_has_the_nodes_and_the_primary_of_its_set() -> None:
    places = Places()
    assert (places.urls, places.nodes(ID, 0), places.primary(ID, 0)) == ([], (), None)
    places.learn(info((0, 1, 0), a_set("one", "a", "b", primary="b"), a_set("two", "c", primary="c")))
    assert [primary_of(places, number) for number in range(4)] == ["b", "c", "b", None]
    assert [node.name for node in places.nodes(ID, 2)] == ["a", "b"]
    assert places.urls == [f"tcp://{node}:{port}" for node in "abc" for port in (1, 2)]


def test_who_reigns_over_one_partition_reigns_over_all_of_its_set_until_it_is_gone() -> None:
    places = Places()
    places.learn(info((0, 0, 1), a_set("one", "a", "b"), a_set("two", "c", primary="c")))
    places.reigns(ID, 0, "tcp://b:2")
    assert [primary_of(places, number) for number in range(3)] == ["b", "b", "c"]
    places.reigns(ID, 0, "tcp://elsewhere:1")
    places.is_gone("tcp://a:1")
    assert primary_of(places, 1) == "b"
    places.is_gone("tcp://b:1")
    assert [primary_of(places, number) for number in range(3)] == [None, None, "c"]


def test_an_answer_that_knows_of_no_primary_takes_none_away_and_a_newer_one_counts() -> None:
    places = Places()
    places.learn(info((0,), a_set("one", "a", "b", primary="a")))
    places.learn(info((0,), a_set("one", "a", "b")))
    assert primary_of(places, 0) == "a"
    places.learn(info((0,), a_set("one", "a", "b", primary="b")))
    assert primary_of(places, 0) == "b"


def test_owners_that_do_not_fit_the_sets_are_left_out() -> None:
    places = Places()
    places.learn(info((0, 7), a_set("one", "a")))
    assert places.nodes(ID, 0) == ()
    places.learn(info((0, -1), a_set("one", "a")))
    assert places.nodes(ID, 0) == ()
