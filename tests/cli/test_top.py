"""mqcore top: what it shows is what happened between two looks."""

from __future__ import annotations

import json

from mqcore.cli.top import _Look, _rows, _TopicLook
from mqcore.client import BrokerStatus

STATUS = BrokerStatus(
    name="n", node_id="", incarnation=1, epoch=1, listen=(), storage={}, connections=1, connections_max=2, sessions=1,
    reigns=True,
)  # fmt: skip


def look(at, **committed):
    topics = {name: _TopicLook(committed=n, end=n + 3, unflushed=2, bytes=10 * n) for name, n in committed.items()}
    return _Look(at=at, status=STATUS, topics=topics)


def test_rates_are_differences_and_the_busiest_topic_is_first():
    rows = _rows(look(10.0, a=100, b=100, anew=500), look(12.0, a=110, b=300, anew=4, new=8))
    assert [(row.topic, row.messages_per_second) for row in rows] == [("b", 100), ("a", 5), ("new", 4), ("anew", 0)]
    assert {(row.uncommitted, row.unflushed) for row in rows} == {(3, 2)}


def test_a_broker_is_watched_as_text_and_as_json(cli, memory_broker, tmp_path):
    server = ("--server", memory_broker.urls[0])
    (tmp_path / "lines").write_text("a\nb\nc\n")
    assert cli(*server, "topic", "create", "watched").status == 0
    assert cli(*server, "produce", "watched", tmp_path / "lines").status == 0
    text = cli(*server, "top", "--interval", "1ms")
    assert text.status == 0, text.err
    assert "watched" in text.out
    result = cli(*server, "top", "--interval", "1ms", "--count", "2", "--output", "json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert len(lines) == 2
    (topic,) = [each for each in lines[0]["topics"] if each["topic"] == "watched"]
    assert (topic["uncommitted"], topic["messages_per_second"]) == (0, 0)
    assert topic["kept_bytes"] > 0


def test_no_interval_is_refused(cli):
    assert cli("top", "--interval", "0ms").status == 2
