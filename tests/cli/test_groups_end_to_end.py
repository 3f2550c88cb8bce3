"""Consumer groups as a user runs them, in processes: shares, a member that is killed, cursors that stay."""

from __future__ import annotations

import json
import queue
import signal
import threading

import pytest

PATIENCE_S = 60
SESSION_S = 2


class Reader:
    """A ``mqcore consume --group`` that runs, and the messages that it has printed so far."""

    def __init__(self, command, url, topic, member, *arguments):
        self.process = command.start(
            "--server", url, "consume", topic, "--group", "g1", "--from", "start", "--member", member,
            "--session", f"{SESSION_S}s", "--output", "json", *arguments,
        )  # fmt: skip
        self.messages = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            self.messages.put(json.loads(line))

    def end(self, sign=signal.SIGINT):
        self.process.send_signal(sign)
        status = self.process.wait(PATIENCE_S)
        self.thread.join()
        errors = self.process.stderr.read().decode()
        self.process.stdout.close()
        self.process.stderr.close()
        return status, errors

    def taken(self):
        found = []
        while not self.messages.empty():
            found.append(self.messages.get())
        return found


def take(reader, count):
    """The next ``count`` messages that ``reader`` prints."""
    return [reader.messages.get(timeout=PATIENCE_S) for _ in range(count)]


def until(condition):
    """Ask again and again until ``condition()`` returns something true, and return that."""
    waited = threading.Event()
    for _ in range(PATIENCE_S * 10):
        if found := condition():
            return found
        waited.wait(0.1)
    raise AssertionError("it never came to that")


class Lines:
    """A topic of four partitions, and what a user asks of it."""

    def __init__(self, command, url):
        self.command = command
        self.url = url
        self.sent = 0
        assert self.run("topic", "create", "lines", "--partitions", "4").returncode == 0

    def run(self, *arguments, stdin=b""):
        return self.command("--server", self.url, *arguments, stdin=stdin)

    def send(self, each):
        """Send ``each`` messages to every partition; return their values."""
        values = []
        for partition in range(4):
            some = [f"{partition}/{self.sent + number}" for number in range(each)]
            done = self.run("produce", "lines", "--partition", str(partition), stdin="\n".join(some).encode())
            assert done.returncode == 0, done.stderr
            values += some
        self.sent += each
        return values

    def describe(self):
        done = self.run("group", "describe", "g1", "--output", "json")
        return json.loads(done.stdout)["topics"][0] if done.returncode == 0 else None

    def shares(self):
        """Partitions by member once the group is settled; None before."""
        state = self.describe()
        if state is None or not state["settled"]:
            return None
        shares = {}
        for each in state["partitions"]:
            shares.setdefault(each["member"], set()).add(each["partition"])
        return shares


def values(messages):
    return [message["value"] for message in messages]


@pytest.fixture
def lines(mqcore_command, serve, tmp_path):
    served = serve("--storage", f"mmap://{tmp_path / 'data'}", "--listen", "tcp://127.0.0.1:0")
    return Lines(mqcore_command, served.urls[0])


@pytest.mark.slow
def test_two_members_share_and_when_one_is_killed_the_other_goes_on_with_nothing_missed_or_read_twice(lines):
    first = Reader(lines.command, lines.url, "lines", "a")
    until(lambda: (lines.shares() or {}).keys() == {"a"})
    second = Reader(lines.command, lines.url, "lines", "b")
    shares = until(lambda: (found := lines.shares()) and found.keys() == {"a", "b"} and found)
    assert sorted(map(len, shares.values())) == [2, 2]
    sent = lines.send(5)
    read = {"a": take(first, 10), "b": take(second, 10)}
    for member, messages in read.items():
        assert {message["partition"] for message in messages} == shares[member]
    assert sorted(values(read["a"] + read["b"])) == sorted(sent)
    until(lambda: all(each["lag"] == 0 and each["offset"] == 5 for each in lines.describe()["partitions"]))
    first.end(signal.SIGKILL)
    more = lines.send(5)
    # Whatever the first one had committed is not read again, and what it had not is read by the other.
    assert sorted(values(take(second, 20))) == sorted(more)
    assert until(lines.shares) == {"b": {0, 1, 2, 3}}
    refused = lines.run("group", "reset", "g1", "--topic", "lines", "--to", "start")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"mqcore: group 'g1' has 1 member, such as 'b': stop them first" in refused.stderr
    assert refused.stderr.count(b"\n") == 1
    assert second.end()[0] == 130
    assert second.taken() == []
    until(lambda: lines.describe()["members"] == [])
    moved = lines.run("group", "reset", "g1", "--topic", "lines", "--to", "start", "--output", "json")
    assert [json.loads(line)["before"] for line in moved.stdout.splitlines()] == [10] * 4
    again = lines.run("consume", "lines", "--group", "g1", "--count", "40", "--output", "json")
    assert sorted(values(map(json.loads, again.stdout.splitlines()))) == sorted(sent + more)


@pytest.mark.slow
def test_what_is_counted_out_is_committed_and_not_one_message_more(lines):
    sent = lines.send(3)
    read = []
    for count in (1, 4, 7):
        done = lines.run("consume", "lines", "--group", "g1", "--from", "start", "--count", str(count))
        assert done.returncode == 0, done.stderr
        read += done.stdout.decode().splitlines()
    assert sorted(read) == sorted(sent)


@pytest.mark.slow
def test_cursors_outlive_a_broker_that_is_killed(mqcore_command, serve, tmp_path):
    where = f"mmap://{tmp_path / 'data'}"
    served = serve("--storage", where, "--listen", "tcp://127.0.0.1:0")
    lines = Lines(mqcore_command, served.urls[0])
    sent = lines.send(3)
    done = lines.run("consume", "lines", "--group", "g1", "--from", "start", "--count", "7")
    before = lines.describe()["partitions"]
    served.process.kill()
    served.process.wait()
    lines.url = serve("--storage", where, "--listen", "tcp://127.0.0.1:0").urls[0]
    assert [(each["offset"], each["epoch"]) for each in lines.describe()["partitions"]] == [
        (each["offset"], each["epoch"]) for each in before
    ]
    rest = lines.run("consume", "lines", "--group", "g1", "--from", "start", "--count", "5")
    assert sorted((done.stdout + rest.stdout).decode().splitlines()) == sorted(sent)


@pytest.mark.parametrize(
    ("arguments", "says", "status"),
    [
        (("consume", "lines", "--group", "g1", "--assignor", "fair"), "no assignor 'fair' is installed", 1),
        (("consume", "lines", "--group", "g1", "--partition", "0"), "leave --partition and --exit-at-end away", 2),
        (("consume", "lines", "--member", "m"), "add --group", 2),
        (("consume", "lines", "--group", "g1", "--session", "soon"), "--session", 2),
        (("consume", "lines", "--group", "g\n1"), "printable", 2),
        (("group", "describe", "nobody"), "no group 'nobody' here", 1),
        (("group", "reset", "g1", "--topic", "lines", "--to", "noon"), "--to 'noon': write start, end", 2),
        (("group", "reset", "g1", "--topic", "lines", "--to", "77"), "ends at 0, a cursor at 77 is past that", 1),
        (("group", "reset", "g1", "--topic", "none", "--to", "start"), "no topic 'none' here", 1),
        (("group", "delete", "g1"), "there is no terminal to ask: add --yes", 2),
    ],
)
def test_what_cannot_be_is_one_line(memory_broker, cli, arguments, says, status):
    server = ("--server", memory_broker.urls[0])
    cli(*server, "topic", "create", "lines", "--partitions", "4")
    result = cli(*server, *arguments)
    assert (result.status, result.out) == (status, "")
    assert says in result.err
    assert result.err.count("\n") == 1


@pytest.mark.slow
def test_two_members_of_one_name_the_second_is_told_who_the_first_is(lines):
    first = Reader(lines.command, lines.url, "lines", "a")
    until(lambda: (lines.shares() or {}).keys() == {"a"})
    done = lines.run("consume", "lines", "--group", "g1", "--member", "a")
    assert done.returncode == 1
    assert b"mqcore: group 'g1' has a member 'a' already (client 'mqcore command line', heard of " in done.stderr
    assert done.stderr.count(b"\n") == 1
    other = lines.run("consume", "lines", "--group", "g1", "--member", "b", "--assignor", "range")
    assert b"shares out by 'sticky', not by 'range'" in other.stderr
    assert first.end()[0] == 130


@pytest.mark.slow
def test_a_member_that_is_told_to_end_commits_and_leaves_before_its_session_is_over(lines):
    member = Reader(lines.command, lines.url, "lines", "a", "--session", "10m")
    until(lambda: (lines.shares() or {}).keys() == {"a"})
    sent = lines.send(5)
    assert sorted(values(take(member, 20))) == sorted(sent)
    assert member.end(signal.SIGTERM)[0] == 143
    state = lines.describe()
    assert state["members"] == []
    assert [each["offset"] for each in state["partitions"]] == [5] * 4
