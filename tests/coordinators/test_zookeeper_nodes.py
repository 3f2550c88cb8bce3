"""Which operations are one conditional write in ZooKeeper, and what its answers say."""

from __future__ import annotations

import struct

import pytest

from mqcore.abc import CellPair, CellWrite, CoordinatorCell
from mqcore.ensembles import ServerFailureError

pytestmark = pytest.mark.needs("zookeeper")

OLD, NEW = bytes(16), b"\x11" * 16
BEFORE = CellPair(CoordinatorCell(b"r", OLD), CoordinatorCell())
NODE = "/mqcore/sets:a"


@pytest.fixture(scope="module")
def nodes():
    """The module under test; imported late, since the part's library may be missing."""
    from mqcore_zookeeper import _nodes

    return _nodes


def words(operations):
    """Each operation as its class and path, which is what the condition consists of."""
    return [f"{type(operation).__name__} {operation.path}" for operation in operations]


def test_the_first_write_of_a_name_creates_its_node_so_that_two_of_them_conflict(nodes):
    tree = nodes.NodeTree("mqcore", has_user=False)
    operations = tree.write("sets/a", CellPair(), CellWrite(b"r", NEW), None)
    assert words(operations) == [f"Create {NODE}", f"Create {NODE}/record", f"Create {NODE}/record/{NEW.hex()}"]
    assert operations[1].data == NEW + b"r"


def test_a_write_deletes_the_node_of_the_expected_id_and_expects_an_absent_cell_by_creating_it(nodes):
    tree = nodes.NodeTree("mqcore", has_user=False)
    operations = tree.write("sets/a", BEFORE, CellWrite(b"x", NEW), None)
    assert words(operations) == [
        f"Delete {NODE}/record/{OLD.hex()}",
        f"Create {NODE}/record/{NEW.hex()}",
        f"SetData {NODE}/record",
        f"Create {NODE}/lease",
        f"Delete {NODE}/lease",
    ]


def test_a_cell_that_is_not_written_is_still_part_of_the_condition(nodes):
    tree = nodes.NodeTree("mqcore", has_user=False)
    operations = tree.write("sets/a", BEFORE, None, CellWrite(b"l", NEW))
    assert words(operations)[0] == f"CheckVersion {NODE}/record/{OLD.hex()}"


def test_nodes_of_a_user_belong_to_that_user_alone(nodes):
    for has_user, scheme in ((True, "auth"), (False, "world")):
        operations = nodes.NodeTree("mqcore", has_user=has_user).write("a", CellPair(), CellWrite(b"", NEW), None)
        assert {acl.id.scheme for operation in operations for acl in operation.acl} == {scheme}


def test_a_name_and_one_that_begins_with_it_do_not_share_nodes(nodes):
    tree = nodes.NodeTree("mqcore", has_user=False)
    assert not tree.node("sets/a/record").startswith(tree.node("sets/a") + "/")
    assert tree.name(tree.node("sets/a").rpartition("/")[2]) == "sets/a"


def answer(*results):
    """A transaction's answer: an error code, or None for a deletion that was done."""
    body = b""
    for result in results:
        body += struct.pack("!i?i", 2, False, 0) if result is None else struct.pack("!i?ii", -1, False, result, result)
    return body + struct.pack("!i?i", -1, True, -1)


def deletions(count):
    from kazoo.protocol import serialization as wire

    return [wire.Delete("/x", -1)] * count


@pytest.mark.parametrize(
    ("results", "failed"),
    [((None, None), None), ((0, -101), (1, -101)), ((-110, -2), (0, -110)), ((0, -102, -2), (1, -102))],
)
def test_an_answer_says_which_operation_failed_and_why(nodes, results, failed):
    from mqcore_zookeeper._session import Reply

    assert nodes.multi_answer(deletions(len(results)), Reply(0, answer(*results), 0)).failed == failed


def test_an_answer_says_how_often_a_cell_was_written(nodes):
    from mqcore_zookeeper._session import Reply

    operations = nodes.NodeTree("mqcore", has_user=False).write("sets/a", BEFORE, CellWrite(b"x", NEW), None)
    version = struct.pack("!qqqqiiiqiiq", 1, 2, 3, 4, 41, 0, 0, 0, 5, 1, 2)
    path = operations[1].path.encode()
    frame = struct.pack("!i?i", 2, False, 0)
    frame += struct.pack("!i?ii", 1, False, 0, len(path)) + path
    frame += struct.pack("!i?i", 5, False, 0) + version
    frame += struct.pack("!i?ii", 1, False, 0, 1) + b"/" + struct.pack("!i?i", 2, False, 0)
    changes = nodes.multi_answer(operations, Reply(0, frame, 0)).changes
    assert (changes[f"{NODE}/record"], changes.get(f"{NODE}/lease")) == (42, None)


@pytest.mark.parametrize("frame", [b"", b"\0", answer(None), answer(None)[:-9], struct.pack("!i?i", 99, False, 0) * 2])
def test_an_answer_that_is_not_as_it_must_be_is_a_failure(nodes, frame):
    from mqcore_zookeeper._session import Reply

    with pytest.raises(ServerFailureError):
        nodes.multi_answer(deletions(2), Reply(0, frame, 0))


@pytest.mark.parametrize(("error", "sure"), [(-102, True), (-101, True), (-112, False), (-4, False), (-118, False)])
def test_only_what_was_looked_at_and_refused_was_certainly_not_applied(nodes, error, sure):
    assert nodes.refusal(error).sure is sure


def test_a_node_without_a_write_id_is_another_programs(nodes):
    from kazoo.protocol import serialization as wire

    from mqcore_zookeeper._session import Reply

    frame = struct.pack("!i", 3) + b"abc" + bytes(68)
    with pytest.raises(ServerFailureError, match="another program"):
        nodes.stored_cell(wire.GetData("/x", False), Reply(0, frame, 0))
