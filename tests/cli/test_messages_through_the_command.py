"""topic, produce, consume and serve as a user types them: what goes in comes out, and every way to end is clean."""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
import threading
from pathlib import Path

import attrs
import pytest

from mqcore.client._admin import Admin

pytestmark = pytest.mark.quick


@pytest.fixture
def run(cli, memory_broker):
    """A command line against the broker of this module."""
    return lambda *arguments, **named: cli("--server", memory_broker.urls[0], *arguments, **named)


@pytest.fixture
def topic(run, request):
    """A topic of the test's own, with two partitions."""
    name = f"t{abs(hash(request.node.nodeid))}"
    assert run("topic", "create", name, "--partitions", "2").status == 0
    return name


def lines(result):
    assert (result.status, result.err) == (0, "")
    return result.out.splitlines()


def objects(result):
    return [json.loads(line) for line in lines(result)]


def test_a_line_is_a_message_and_comes_back_as_one(run, topic, tmp_path):
    text = b"first\n\nthird \xc3\xa4\r\nlast without an end"
    (tmp_path / "text").write_bytes(text)
    (summary,) = objects(run("--output", "json", "produce", topic, tmp_path / "text", "--partition", "0"))
    assert (summary["messages"], summary["level"]) == (4, "memory")
    read = run("consume", topic, "--from", "start", "--exit-at-end")
    assert read.out == "first\n\nthird ä\r\nlast without an end\n"


def test_standard_input_is_read_where_no_file_is_named(run, mqcore_command, memory_broker, topic):
    done = mqcore_command("produce", topic, stdin=b"a\nb\n", MQCORE_SERVER=memory_broker.urls[0])
    assert done.returncode == 0, done.stderr
    assert sorted(lines(run("consume", topic, "--from", "start", "--exit-at-end"))) == ["a", "b"]


def test_messages_may_end_in_zero_bytes(run, topic, tmp_path):
    (tmp_path / "names").write_bytes(b"two\nlines\0one\0")
    lines(run("produce", topic, tmp_path / "names", "--null-separated", "--partition", "1"))
    read = run("consume", topic, "--from", "start", "--exit-at-end", "--null-separated")
    assert read.out == "two\nlines\0one\0"


def test_keys_stand_before_a_separator_and_choose_the_partition(run, topic, tmp_path):
    (tmp_path / "keyed").write_text("".join(f"k{number % 7}:v{number}\n" for number in range(70)))
    lines(run("produce", topic, tmp_path / "keyed", "--key-separator", ":"))
    messages = objects(run("--output", "json", "consume", topic, "--from", "start", "--exit-at-end"))
    partitions = {}
    for message in messages:
        partitions.setdefault(message["key"], set()).add(message["partition"])
    assert len(messages) == 70
    assert all(len(where) == 1 for where in partitions.values())
    assert {number for where in partitions.values() for number in where} == {0, 1}
    text = run("consume", topic, "--from", "start", "--exit-at-end", "--key-separator", ":")
    assert sorted(lines(text)) == sorted((tmp_path / "keyed").read_text().splitlines())


def test_a_key_separator_may_be_a_byte_that_is_no_text(run, topic, tmp_path):
    (tmp_path / "keyed").write_bytes(b"k\xffv\n")
    lines(run("produce", topic, tmp_path / "keyed", "--key-separator", "\udcff"))
    (message,) = objects(run("--output", "json", "consume", topic, "--from", "start", "--exit-at-end"))
    assert (message["key"], message["value"]) == ("k", "v")


def test_a_line_without_the_key_separator_is_refused_by_number(run, topic, tmp_path):
    (tmp_path / "keyed").write_text("a:1\nno key here\n")
    result = run("produce", topic, tmp_path / "keyed", "--key-separator", ":")
    assert result.status == 2
    assert "message 2" in result.err


def test_what_is_not_text_comes_as_base64_in_json(run, topic, tmp_path):
    (tmp_path / "raw").write_bytes(b"\xff\x00\n")
    lines(run("produce", topic, tmp_path / "raw"))
    (message,) = objects(run("--output", "json", "consume", topic, "--from", "start", "--exit-at-end"))
    assert base64.b64decode(message["value_base64"]) == b"\xff\x00"


def test_count_and_where_to_begin(run, topic, tmp_path):
    (tmp_path / "ten").write_text("".join(f"{number}\n" for number in range(10)))
    lines(run("produce", topic, tmp_path / "ten", "--partition", "0"))
    read = ("consume", topic, "--partition", "0")
    assert lines(run(*read, "--from", "7", "--exit-at-end")) == ["7", "8", "9"]
    assert lines(run(*read, "--from", "start", "--count", "3")) == ["0", "1", "2"]
    assert len(lines(run(*read, "--from", "@-1h", "--exit-at-end"))) == 10
    assert len(lines(run(*read, "--from", "@2001-01-01T00:00:00Z", "--exit-at-end"))) == 10
    assert lines(run(*read, "--from", "end", "--exit-at-end")) == []


@pytest.mark.parametrize("start", ["yesterday", "@2001-01-01", "-5", "@-10 parsecs", "@-10", "@"])
def test_a_place_to_begin_that_means_nothing_is_refused_with_the_forms(cli, start):
    result = cli("consume", "t", f"--from={start}")
    assert result.status == 2
    assert "RFC 3339" in result.err


def test_an_empty_topic_ends_at_once_with_exit_at_end(run, topic):
    assert lines(run("consume", topic, "--from", "start", "--exit-at-end")) == []


def test_messages_that_are_there_and_not_committed_are_told_where_nothing_else_is_found(run, topic, monkeypatch):
    """As after a failover, while a member is waited for: it looks as if all of them were lost."""
    describe = Admin.describe_topic

    async def described(admin, name):
        found = await describe(admin, name)
        return attrs.evolve(
            found, logs=tuple(attrs.evolve(each, end_offset=each.end_offset + 2) for each in found.logs)
        )

    monkeypatch.setattr(Admin, "describe_topic", described)
    found = run("consume", topic, "--from", "start", "--exit-at-end")
    assert (found.status, found.out) == (0, "")
    assert "4 messages are there and not shown, as they are not committed yet" in found.err


def test_producing_to_an_unknown_topic_names_the_command_that_makes_it(run, tmp_path):
    (tmp_path / "text").write_text("x\n")
    result = run("produce", "unheard-of", tmp_path / "text")
    assert result.status == 1
    assert "mqcore topic create unheard-of" in result.err


def test_a_file_that_is_not_there_is_named(run, topic):
    result = run("produce", topic, "/no/such/file")
    assert (result.status, result.err) == (1, "mqcore: /no/such/file: No such file or directory\n")


def test_a_directory_is_no_file_of_messages(run, topic, tmp_path):
    result = run("produce", topic, tmp_path)
    assert result.status == 2
    assert str(tmp_path) in result.err


def test_a_message_above_the_limit_is_refused_and_nothing_invented(run, topic, tmp_path):
    (tmp_path / "large").write_bytes(b"small\n" + b"x" * (8 * 1024 * 1024 + 1) + b"\nafter\n")
    result = run("produce", topic, tmp_path / "large")
    assert result.status == 2
    assert "message 2" in result.err
    assert lines(run("consume", topic, "--from", "start", "--exit-at-end")) == ["small"]


def test_messages_before_one_without_a_key_separator_are_sent_and_counted(run, topic, tmp_path):
    (tmp_path / "pairs").write_text("a:1\nb:2\nnone\nc:3\n")
    result = run("produce", topic, tmp_path / "pairs", "--key-separator", ":")
    assert result.status == 2
    assert "acknowledged before this failed: 2 messages" in result.err
    assert "message 3 of the input has no key separator ':'" in result.err
    assert lines(run("consume", topic, "--from", "start", "--exit-at-end")) == ["1", "2"]


def test_topics_are_made_altered_described_and_deleted(run):
    lines(run("topic", "create", "made", "--partitions", "2", "--flush", "none"))
    (topic,) = [each for each in objects(run("--output", "json", "topic", "list")) if each["name"] == "made"]
    assert topic["partitions"] == 2
    lines(run("topic", "alter", "made", "--partitions", "3", "--reset", "flush"))
    (described,) = objects(run("--output", "json", "topic", "describe", "made"))
    assert (described["partitions"], len(described["logs"]), "flush" in described["config"]) == (3, 3, False)
    assert run("topic", "alter", "made", "--partitions", "1").status == 2
    assert run("topic", "create", "made").status == 1
    refused = run("topic", "delete", "made")
    assert (refused.status, "add --yes" in refused.err) == (2, True)
    lines(run("topic", "delete", "made", "--yes"))
    assert "made" not in run("topic", "list").out


@pytest.mark.parametrize("name", ["a/b", "..", "a\nb", "x" * 300, ""])
def test_names_that_no_topic_may_have_are_refused(run, name):
    result = run("topic", "create", name)
    assert result.status in (1, 2)
    assert len(result.err.splitlines()) == 1


def test_g18_replication_is_put_together_from_its_options_and_refused_where_there_is_no_set(run):
    refused = run("topic", "create", "copied", "--replication", "sync", "--copies", "2", "--level", "memory")
    assert refused.status == 3
    assert "'sync(copies=2, level=memory, on_missing=block)' takes other nodes" in refused.err
    for wrong in (["--copies", "2"], ["--replication", "sync(copies=3)", "--copies", "2"]):
        assert run("topic", "create", "copied", *wrong).status == 2
    unknown = run("topic", "create", "copied", "--replication", "async", "--copies", "2")
    assert (unknown.status, "async takes max_delay, on_exceeded" in unknown.err) == (2, True)
    assert "copied" not in run("topic", "list").out


def test_nothing_to_alter_is_wrong_usage(run, topic):
    assert run("topic", "alter", topic).status == 2


def test_a_key_that_is_set_and_reset_at_once_is_wrong_usage(run, topic):
    result = run("topic", "alter", topic, "--weakest-send", "sync", "--reset", "weakest-send")
    assert result.status == 2
    assert "--weakest-send sets what --reset weakest-send takes back: give one of the two" in result.err
    assert run("topic", "alter", topic, "--private-tag", "200", "--reset", "private-tags").status == 2


def test_a_reader_that_leaves_ends_the_command_quietly(mqcore_command, memory_broker, run, topic, tmp_path):
    (tmp_path / "text").write_text("one\ntwo\nthree\n")
    lines(run("produce", topic, tmp_path / "text", "--partition", "0"))
    process = mqcore_command.start("--server", memory_broker.urls[0], "consume", topic, "--from", "start")
    assert process.stdout.readline() == b"one\n"
    process.stdout.close()
    assert process.wait(20) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_an_interrupt_ends_a_consumer_with_status_130_quietly(mqcore_command, memory_broker, run, topic, tmp_path):
    (tmp_path / "text").write_text("one\n")
    lines(run("produce", topic, tmp_path / "text"))
    process = mqcore_command.start("--server", memory_broker.urls[0], "consume", topic, "--from", "start")
    assert process.stdout.readline() == b"one\n"
    process.send_signal(signal.SIGINT)
    rest, told = process.communicate(timeout=120)
    assert (process.returncode, rest, told) == (130, b"", b"")


def test_an_interrupted_producer_tells_what_was_acknowledged(mqcore_command, memory_broker, run, topic):
    process = mqcore_command.start("--server", memory_broker.urls[0], "produce", topic, stdin=subprocess.PIPE)
    process.stdin.write(b"a\nb\n")
    process.stdin.flush()
    assert run("consume", topic, "--from", "start", "--count", "2").status == 0  # both are there
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"published 2 messages" in out
    assert told == b""


def until_unread_at(port):
    """Wait until something has come to a connection of the local ``port`` that nobody has read yet."""
    for _ in range(6000):
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, _, queues, *_ = line.split()
            if int(local.partition(":")[2], 16) == port and int(queues.partition(":")[2], 16):
                return
        threading.Event().wait(0.01)
    pytest.fail("nothing was sent")


def test_an_interrupted_producer_whose_broker_does_not_answer_says_what_it_waits_for(mqcore_command, serve, cli):
    """It is not stuck: what it has sent is on its way, and may be acknowledged yet."""
    served = serve("--storage", "memory://", "--listen", "tcp://127.0.0.1:0")
    arguments = ["--server", served.urls[0]]
    assert cli(*arguments, "topic", "create", "lines").status == 0
    process = mqcore_command.start(*arguments, "produce", "lines", stdin=subprocess.PIPE)
    process.stdin.write(b"a\n")
    process.stdin.flush()
    assert cli(*arguments, "consume", "lines", "--from", "start", "--count", "1").status == 0
    served.process.send_signal(signal.SIGSTOP)
    process.stdin.write(b"b\n")
    process.stdin.flush()
    until_unread_at(int(arguments[1].rpartition(":")[2]))
    process.send_signal(signal.SIGINT)
    assert b"not all acknowledged yet, and is waited for; a second Ctrl-C" in process.stderr.readline()
    served.process.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=120)
    assert (process.returncode, b"published 2 messages" in out) == (130, True)


def test_a_rate_is_kept(run, topic, tmp_path):
    (tmp_path / "text").write_text("x\n" * 30)
    (summary,) = objects(run("--output", "json", "produce", topic, tmp_path / "text", "--rate", "100"))
    assert summary["messages"] == 30
    assert summary["seconds"] >= 0.2  # thirty at a hundred per second, the first few at once


def test_serve_says_what_is_lost_and_where_it_listens_and_stops_on_a_signal(serve, tmp_path):
    broker = serve(
        "--storage", f"mmap://{tmp_path}/s", "--listen", "tcp://127.0.0.1:0", "--listen", f"unix://{tmp_path}/u"
    )
    kinds = [event["event"] for event in broker.events]
    assert kinds == ["storage", "promises", "listening", "listening", "ready"]
    assert broker.urls[1] == f"unix://{tmp_path}/u"
    broker.process.send_signal(signal.SIGTERM)
    assert broker.process.wait(20) == 0


def test_serve_ends_with_130_after_an_interrupt(serve):
    broker = serve("--storage", "memory://", "--listen", "tcp://127.0.0.1:0")
    broker.process.send_signal(signal.SIGINT)
    assert broker.process.wait(20) == 130


def test_serve_answers_what_is_in_flight_before_a_hangup_ends_it_and_keeps_to_nohup(serve, mqcore_command):
    broker = serve("--storage", "memory://", "--listen", "tcp://127.0.0.1:0")
    broker.process.send_signal(signal.SIGHUP)
    assert broker.process.wait(20) == 0
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        broker = serve("--storage", "memory://", "--listen", "tcp://127.0.0.1:0")
    finally:
        signal.signal(signal.SIGHUP, previous)
    broker.process.send_signal(signal.SIGHUP)
    assert mqcore_command("--server", broker.urls[0], "topic", "list").returncode == 0
    broker.process.send_signal(signal.SIGINT)
    assert broker.process.wait(20) == 130, "the interrupt alone was taken"


def test_a_port_in_use_is_named(cli):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = cli("serve", "--storage", "memory://", "--listen", f"tcp://127.0.0.1:{port}")
    assert result.status == 1
    assert f"127.0.0.1:{port}" in result.err
    assert "in use" in result.err


def test_what_was_acknowledged_survives_a_kill_and_goes_through_both_transports(cli, serve, tmp_path):
    storage = f"mmap://{tmp_path}/s"
    broker = serve("--storage", storage, "--listen", "tcp://127.0.0.1:0", "--flush", "sync")
    (tmp_path / "text").write_text("".join(f"line {number}\n" for number in range(1_000)))
    lines(cli("--server", broker.urls[0], "topic", "create", "lines", "--partitions", "4"))
    lines(cli("--server", broker.urls[0], "produce", "lines", tmp_path / "text"))
    broker.process.send_signal(signal.SIGKILL)
    broker.process.wait(20)
    again = serve("--storage", storage, "--listen", "tcp://127.0.0.1:0", "--listen", f"unix://{tmp_path}/u")
    for url in again.urls:
        read = lines(cli("--server", url, "consume", "lines", "--from", "start", "--exit-at-end"))
        assert sorted(read) == sorted((tmp_path / "text").read_text().splitlines())


def test_tags_are_given_and_asked_for(run, topic, tmp_path):
    for name, tag in (("1", "paid"), ("2", "open"), ("3", None), ("4", "paid")):
        (tmp_path / name).write_text(f"order {name}\n")
        lines(run("produce", topic, tmp_path / name, "--partition", "0", *(("--tag", tag) if tag else ())))
    common = ("consume", topic, "--from", "start", "--exit-at-end")
    assert lines(run(*common, "--tag", "paid")) == ["order 1", "order 4"]
    assert lines(run(*common, "--tag", "paid", "--tag", "open")) == ["order 1", "order 2", "order 4"]
    assert lines(run(*common, "--tag", "paid", "--count", "1")) == ["order 1"]
    assert lines(run(*common, "--tag", "nothing")) == []
    printed = objects(run("--output", "json", *common))
    assert [each.get("tag") for each in printed] == ["paid", "open", None, "paid"]
    refused = run("produce", topic, tmp_path / "1", "--tag", "t" * 201)
    assert refused.status != 0
    assert "tag of 201 bytes; at most 200" in refused.err
    for command in (("produce", topic, tmp_path / "1"), common):  # \udcff: how Python has a byte that is no UTF-8
        refused = run(*command, "--tag", "\udcff")
        assert refused.status == 2
        assert refused.err == "mqcore: tag '\\udcff': it cannot be written in UTF-8\n"


def test_a_filter_prints_what_it_matches_and_one_that_is_not_there_is_refused_by_name(run, topic, tmp_path):
    (tmp_path / "pairs").write_bytes(b"order-1,a\nother,b\norder-2,c\n")
    lines(run("produce", topic, tmp_path / "pairs", "--key-separator", ",", "--partition", "0"))
    common = ("consume", topic, "--from", "start", "--exit-at-end", "--filter")
    assert lines(run(*common, "key:order-")) == ["a", "c"]
    assert lines(run(*common, "key:order-", "--key-separator", "=", "--count", "1")) == ["order-1=a"]
    assert [each["value"] for each in objects(run("--output", "json", *common, "key:other"))] == ["b"]
    assert lines(run(*common, "key:nothing")) == []
    refused = run(*common, "kye:order-")
    assert refused.status == 2
    assert "no filter is called 'kye' (did you mean 'key'?)" in refused.err
