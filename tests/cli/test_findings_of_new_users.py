"""What a new user runs into: waiting that says why, errors that name the remedy, one way of saying a thing."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import resource
import socket
import subprocess
import time

import pytest

from mqcore.units import grouped

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


@pytest.fixture
def mqcore_text(mqcore_command):
    """Runs a command line; returns its status, output and errors as text."""

    def run(*arguments, stdin=b"", **variables):
        done = mqcore_command(*map(str, arguments), stdin=stdin, **variables)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


@pytest.fixture
def limited(mqcore_command, monkeypatch):
    """Starts processes that have a resource limit from their first moment."""
    popen = subprocess.Popen

    def limit(kind, value):
        def start(*arguments, **named):
            return popen(*arguments, preexec_fn=lambda: resource.setrlimit(kind, (value, value)), **named)

        monkeypatch.setattr(subprocess, "Popen", start)

    return limit


@pytest.fixture
def as_nobody(monkeypatch):
    """From its call on, processes have no permission that the mode of a file does not give them, root's neither."""
    popen, prctl = subprocess.Popen, ctypes.CDLL(None).prctl

    def give_up():
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # exec gives root no more than what is left

    def switch():
        if os.geteuid() == 0:
            monkeypatch.setattr(subprocess, "Popen", lambda *given, **named: popen(*given, preexec_fn=give_up, **named))

    return switch


def test_a_broker_whose_disk_is_full_makes_produce_say_so_while_it_tries_on(serve, mqcore_text, limited, tmp_path):
    limited(resource.RLIMIT_FSIZE, 2 * MIB)
    served = serve("--storage", f"mmap://{tmp_path}/s?journal_bytes=1MiB", "--listen", f"unix://{tmp_path}/sock")
    server = ("--server", served.urls[0])
    assert mqcore_text(*server, "topic", "create", "lines")[0] == 0
    began = time.monotonic()
    status, _, err = mqcore_text(
        *server, "produce", "lines", "--timeout", "5s", stdin=b"\n".join([os.urandom(500_000).hex().encode()] * 20)
    )
    assert time.monotonic() - began > 4
    assert status == 1
    told = [line for line in err.splitlines() if "going on trying" in line]
    assert len(told) == 1, err
    assert told[0].startswith("mqcore: topic 'lines': nothing is taken in")
    assert "each message for 5 s" in told[0]


def test_a_socket_without_permission_is_told_at_once(as_nobody, mqcore_text, tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "sock"))
        listening.listen()
        (tmp_path / "sock").chmod(0)
        as_nobody()
        # It is not tried again until the time is up: that would be longer than a test may take.
        status, _, err = mqcore_text("--server", f"unix://{tmp_path}/sock", "--timeout", "1h", "topic", "list")
    assert status == 4
    assert "no permission: the broker's mode option says who may connect" in err
    assert len(err.splitlines()) == 1


def test_a_server_that_says_nothing_is_asked_about(mqcore_text):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        status, _, err = mqcore_text(
            "--server", f"tcp://127.0.0.1:{listening.getsockname()[1]}", "--timeout", "1s", "topic", "list"
        )
    assert status == 4
    assert "takes connections and says nothing: is it a broker of mqcore" in err


def test_waiting_for_a_server_is_told_after_a_while(mqcore_text, tmp_path):
    status, _, err = mqcore_text("--server", f"unix://{tmp_path}/none", "--timeout", "4s", "topic", "list")
    assert status == 4
    first, last = err.splitlines()
    assert "no server answers, going on trying" in first
    assert "start the broker" in first
    assert "no server answered within 4 s" in last


def test_an_address_in_use_leaves_no_storage_behind(serve, mqcore_text, tmp_path):
    served = serve("--storage", "memory://", "--listen", "tcp://127.0.0.1:0")
    status, _, err = mqcore_text("serve", "--storage", f"mmap://{tmp_path}/new", "--listen", served.urls[0])
    assert status == 1
    assert "the port is in use" in err
    assert not (tmp_path / "new").exists()


def test_two_listeners_at_one_address_are_refused_before_a_storage_is_made(mqcore_text, tmp_path):
    listen = ("--listen", f"unix://{tmp_path}/sock")
    status, _, err = mqcore_text("serve", "--storage", f"mmap://{tmp_path}/new", *listen, *listen)
    assert status in (1, 2)
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("count", [10, 20])
def test_a_broker_that_may_open_too_few_files_says_one_line(mqcore_command, limited, tmp_path, count):
    limited(resource.RLIMIT_NOFILE, count)
    process = mqcore_command.start("serve", "--storage", f"mmap://{tmp_path}/s", "--listen", "tcp://127.0.0.1:0")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out
    assert len(err.decode().splitlines()) == 1
    assert "oo many open files" in err.decode() or f"may open {count} files" in err.decode()


def test_a_broker_that_may_open_64_files_serves_more_partitions_than_that(serve, mqcore_text, limited, tmp_path):
    limited(resource.RLIMIT_NOFILE, 64)
    served = serve("--storage", f"mmap://{tmp_path}/s", "--listen", f"unix://{tmp_path}/sock")
    server = ("--server", served.urls[0])
    assert mqcore_text(*server, "topic", "create", "lines", "--partitions", "80")[0] == 0
    stdin = b"\n".join(b"%d:x" % number for number in range(500))
    status, out, err = mqcore_text(*server, "produce", "lines", "--key-separator", ":", stdin=stdin)
    assert status == 0, err
    assert "published 500 messages" in out


def test_a_storage_that_this_user_may_not_read_is_told_without_advice_to_write(as_nobody, serve, mqcore_text, tmp_path):
    served = serve("--storage", f"mmap://{tmp_path}/s", "--listen", "tcp://127.0.0.1:0")
    served.process.terminate()
    served.process.wait(20)
    (tmp_path / "s").chmod(0)
    as_nobody()
    for verb in ("verify", "inspect"):
        status, _, err = mqcore_text("storage", verb, f"mmap://{tmp_path}/s")
        assert status == 1
        assert "run it as the user that the broker runs as" in err
        assert "write" not in err
    (tmp_path / "s").chmod(0o700)


def test_inspect_and_verify_call_a_log_by_its_topic(serve, mqcore_text, cli, tmp_path):
    served = serve("--storage", f"mmap://{tmp_path}/s", "--listen", f"unix://{tmp_path}/sock")
    server = ("--server", served.urls[0])
    for topic in ("orders", "lines"):
        assert mqcore_text(*server, "topic", "create", topic)[0] == 0
        assert mqcore_text(*server, "produce", topic, stdin=b"one\ntwo\n")[0] == 0
    served.process.terminate()
    served.process.wait(20)
    url = f"mmap://{tmp_path}/s"
    table = cli("storage", "inspect", url).out
    assert "orders/0" in table
    assert "lines/0: reign 1 from offset 0" in table
    found = [json.loads(line) for line in cli("storage", "inspect", url, "--output", "json").out.splitlines()]
    places = {(each["topic"], each["partition"]) for each in found if each["kind"] == "partition"}
    assert places == {("orders", 0), ("lines", 0)}
    name = next(each["name"] for each in found if each.get("topic") == "lines")
    (one,) = cli("storage", "inspect", url, "--log", name, "--output", "json").out.splitlines()
    assert json.loads(one)["topic"] == "lines"
    for path in (tmp_path / "s" / "segments").glob(f"{name}@*"):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"onetwo", b"onezwo"))
    assert f"{name} (lines/0): damaged" in cli("storage", "verify", url).out


def test_a_partition_out_of_range_is_wrong_usage_for_every_verb(memory_broker, mqcore_text):
    server = ("--server", memory_broker.urls[0])
    assert mqcore_text(*server, "topic", "create", "ranges", "--partitions", "2")[0] == 0
    said = {
        mqcore_text(*server, "produce", "ranges", "--partition", "9", stdin=b"x\n"),
        mqcore_text(*server, "consume", "ranges", "--partition", "9"),
        mqcore_text(*server, "consume", "ranges", "--partition", "9", "--from", "start", "--exit-at-end"),
    }
    assert said == {(2, "", "mqcore: topic 'ranges' has partitions 0 to 1, not 9\n")}


def test_only_a_topic_that_is_wanted_for_use_is_offered_to_be_made(memory_broker, mqcore_text):
    server = ("--server", memory_broker.urls[0])
    for verb in (("delete", "nope", "--yes"), ("describe", "nope"), ("alter", "nope", "--partitions", "3")):
        status, _, err = mqcore_text(*server, "topic", *verb)
        assert (status, "topic create" in err, "topic list" in err) == (1, False, True), err
    for verb in (("produce", "nope"), ("consume", "nope")):
        status, _, err = mqcore_text(*server, *verb)
        assert (status, "topic create nope" in err) == (1, True), err
    for verb in (("produce", "a/b"), ("consume", "a/b"), ("topic", "delete", "a/b", "--yes")):
        status, _, err = mqcore_text(*server, *verb)
        assert (status, "topic create" in err, "is not allowed" in err) == (2, False, True), err


def test_numbers_are_written_one_way(memory_broker, serve, mqcore_text, tmp_path):
    server = ("--server", memory_broker.urls[0])
    assert mqcore_text(*server, "topic", "create", "numbers")[0] == 0
    _, out, _ = mqcore_text(*server, "produce", "numbers", stdin=b"x\n" * 12_345)
    assert "published 12 345 messages (12 345 bytes)" in out
    assert "12 345" in mqcore_text(*server, "topic", "describe", "numbers")[1]
    process = serve.command.start("serve", "--storage", f"mmap://{tmp_path}/s", "--listen", "tcp://127.0.0.1:0")
    first = process.stdout.readline().decode()
    process.terminate()
    process.communicate(timeout=120)
    assert "segment_bytes 64 MiB" in first
    assert (grouped(999), grouped(13_623_672), grouped(1e6)) == ("999", "13 623 672", "1 000 000")


@pytest.mark.parametrize(
    "verb", [("config", "init"), ("new", "storage", "shelf"), ("new", "transport", "pigeon"), ("demo",)], ids=" ".join
)
def test_to_names_a_folder_that_is_made_and_one_above_it_that_is_there(cli, verb, tmp_path):
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "none" / "deep", tmp_path / "file"):
        result = cli(*verb, "--to", wrong)
        assert result.status == 2
        assert f"--to {wrong}" in result.err
        assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "none").exists()
    if verb != ("demo",):
        assert cli(*verb, "--to", tmp_path / "made").status == 0
        assert any((tmp_path / "made").iterdir())


def test_looking_after_an_array_that_is_not_there_makes_none(cli, tmp_path):
    for query in ("", "?level=1"):
        result = cli("raid", "status", "--storage", f"raid://{tmp_path}/a,{tmp_path}/b{query}")
        assert result.status == 1
        assert "none of the members" in result.err
    assert not any(tmp_path.iterdir())
    result = cli("raid", "status", "--storage", f"mmap://{tmp_path}")
    assert (result.status, result.out) == (2, "")
    assert "raid:///d1,/d2" in result.err


def test_an_array_that_a_broker_has_not_is_said_with_the_parts_that_it_has(cli, memory_broker):
    result = cli("raid", "status", "--server", memory_broker.urls[0])
    assert result.status == 1
    assert "this broker has no part 'raid'; it has memory, tcp" in result.err


def test_the_first_line_of_a_broker_on_an_array_is_for_people(mqcore_command, tmp_path):
    url = f"raid://{tmp_path}/a,{tmp_path}/b"
    with mqcore_command.start("serve", "--storage", url, "--listen", "tcp://127.0.0.1:0") as broker:
        lines = [line.decode() for line in itertools.takewhile(lambda line: line != b"ready\n", broker.stdout)]
        broker.terminate()
    first = next(line for line in lines if line.startswith(f"storage {url}"))
    assert "groups mirror" in first
    assert "{" not in first


@pytest.mark.parametrize("offset", [str(2**64), "9" * 5000])
def test_an_offset_that_cannot_be_is_named_with_the_largest(cli, offset):
    result = cli("consume", "t", "--from", offset)
    assert result.status == 2
    assert result.err == f"mqcore: --from {offset}: no offset is above {2**64 - 1}; write a lower one, or end\n"


def test_a_directory_whose_name_is_no_utf_8_is_that_very_directory(mqcore_command, tmp_path):
    folder = os.fsencode(tmp_path) + b"/st\xff"
    done = mqcore_command("config", "init", "--to", folder)
    assert (done.returncode, os.listdir(os.fsencode(tmp_path))) == (0, [b"st\xff"])
    assert done.stdout.startswith(b"wrote " + folder + b"/broker.toml;")
    done = mqcore_command("storage", "inspect", b"mmap://" + folder + b"/none")
    assert (done.returncode, b"should not happen" in done.stderr) != (1, True)
    assert b"st\xff" in done.stderr or b"st%FF" in done.stderr


def test_a_topic_whose_name_is_no_utf_8_is_refused(mqcore_command, memory_broker):
    for verb in (("topic", "create"), ("consume",), ("produce",)):
        done = mqcore_command(*verb, b"t\xff", MQCORE_SERVER=memory_broker.urls[0], stdin=b"x\n")
        assert done.returncode in (1, 2)
        assert b"t\\udcff" in done.stderr
        assert b"should not happen" not in done.stderr


def test_a_member_that_is_ejected_from_a_closed_array_is_named(serve, cli, tmp_path):
    url = f"raid://{tmp_path}/a,{tmp_path}/b?level=1"
    broker = serve("--storage", url, "--listen", "tcp://127.0.0.1:0", "--name", "n1")
    broker.process.terminate()
    assert broker.process.wait(30) == 0
    for alone, away in (("a", "b"), ("b", "a")):
        (tmp_path / away).rename(tmp_path / "away")
        broker = serve("--storage", url, "--listen", "tcp://127.0.0.1:0", "--name", "n1")
        broker.process.terminate()
        assert broker.process.wait(30) == 0
        (tmp_path / "away").rename(tmp_path / away)
        assert (tmp_path / alone).is_dir()
    refused = cli("serve", "--storage", url, "--listen", "tcp://127.0.0.1:0", "--name", "n1")
    assert refused.status == 1
    assert "used in two ways that do not know of each other" in refused.err
    told = cli("raid", "eject", tmp_path / "b", "--storage", url)
    assert (told.status, told.out) == (0, f"{tmp_path}/b is ejected: the array opens without it\n")
    serve("--storage", url, "--listen", "tcp://127.0.0.1:0", "--name", "n1")
