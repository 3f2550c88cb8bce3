"""Standard streams that take a part, block, fail, or are not there: all is written, or the status says it was not."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import subprocess
import sys
import threading

import pytest

from mqcore.cli._lines import _read
from mqcore.cli._output import LineQueue, OutputFailedError, _WholeWriter

MESSAGES = 20_000


def closed(*descriptors):
    """What a child does before it becomes the command: it has no such streams."""

    def close():
        for descriptor in descriptors:
            os.close(descriptor)

    return close


def set_nonblocking(descriptor):
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_NONBLOCK)


def run(arguments, environment, **streams):
    return subprocess.run(
        [sys.executable, "-m", "mqcore", *arguments],
        env=environment,
        timeout=120,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


@pytest.fixture
def environment(memory_broker):
    """The environment of a command that finds the broker."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MQCORE_")}
    return kept | {"MQCORE_SERVER": memory_broker.urls[0]}


@pytest.fixture
def topic(mqcore_command, memory_broker, request):
    name = f"t{abs(hash(request.node.name))}"
    assert mqcore_command("topic", "create", name, MQCORE_SERVER=memory_broker.urls[0]).returncode == 0
    return name


def test_a_pipe_that_takes_a_part_at_a_time_gets_every_line(mqcore_command, environment, topic):
    """Unbuffered, and in the non-blocking mode that a parent left it in: a write takes what the pipe has room for."""
    lines = b"".join(b"%d %s\n" % (number, b"x" * 50) for number in range(MESSAGES))
    assert mqcore_command("produce", topic, stdin=lines, MQCORE_SERVER=environment["MQCORE_SERVER"]).returncode == 0
    read, write = os.pipe()
    set_nonblocking(write)
    consume = [sys.executable, "-m", "mqcore", "consume", topic, "--from", "start", "--exit-at-end"]
    with subprocess.Popen(consume, env=environment | {"PYTHONUNBUFFERED": "1"}, stdout=write) as process:
        os.close(write)
        with open(read, "rb") as pipe:
            printed = pipe.read()
    assert process.returncode == 0
    assert printed == lines


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        ("explain", "--storage", "memory://", "--flush", "none"),
        ("plugins", "list"),
        ("topic", "list"),
        ("completion", "bash"),
    ],
    ids=" ".join,
)
def test_a_full_disk_under_standard_output_is_status_1_and_said(environment, arguments):
    with open("/dev/full", "wb") as full:
        done = run(arguments, environment, stdout=full)
    if arguments == ("topic", "list") and done.returncode == 0:
        pytest.fail("a list that was not written ended with status 0")
    assert done.returncode == 1
    assert b"standard output: No space left on device" in done.stderr


@pytest.mark.parametrize("arguments", [("--version",), ("plugins", "list"), ("--help",)], ids=" ".join)
def test_a_closed_standard_output_is_status_1_and_said(environment, arguments):
    done = run(arguments, environment, stdout=None, preexec_fn=closed(1))
    assert done.returncode == 1
    assert done.stderr == b"mqcore: standard output is closed: nothing can be printed\n"


def test_what_gets_the_number_of_a_closed_standard_output_is_not_taken_for_it(mqcore_command, environment, topic):
    assert mqcore_command("produce", topic, stdin=b"hi\n", **environment).returncode == 0
    done = run(["consume", topic, "--from", "start", "--exit-at-end"], environment, stdout=None, preexec_fn=closed(1))
    assert done.returncode == 1
    assert done.stderr == b"mqcore: standard output is closed: nothing can be printed\n"


def test_a_closed_standard_error_stops_nothing(environment, topic):
    done = subprocess.run(
        [sys.executable, "-m", "mqcore", "produce", topic],
        env=environment, input=b"hi\n", stdout=subprocess.PIPE, preexec_fn=closed(2), timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.startswith(b"published 1 message")
    assert run(["nosuchverb"], environment, stderr=None, preexec_fn=closed(2)).returncode == 2


@pytest.mark.quick
def test_a_standard_input_in_non_blocking_mode_is_waited_for(monkeypatch):
    read, write = os.pipe()
    set_nonblocking(read)
    waited = []

    def select(*descriptors):
        waited.append(descriptors)
        os.write(write, b"one\n")

    monkeypatch.setattr("select.select", select)
    assert _read(read) == b"one\n"
    assert waited == [([read], [], [])]
    os.close(read)
    os.close(write)


def test_a_closed_standard_input_is_wrong_usage(environment, topic):
    done = run(["produce", topic], environment, stdin=None, preexec_fn=closed(0))
    assert done.returncode == 2
    assert done.stderr == b"mqcore: standard input is closed; name a file\n"


def test_a_broker_whose_log_nobody_reads_stops_in_order(mqcore_command):
    process = mqcore_command.start("serve", "--storage", "memory://", "--listen", "tcp://127.0.0.1:0")
    while process.stdout.readline() != b"ready\n":
        assert process.poll() is None
    filler = os.open(f"/proc/{os.getpid()}/fd/{process.stdout.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(filler, bytes(4096))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    os.close(filler)
    process.stdout.close()
    process.stderr.close()


# the queue of lines


class Stalled(io.StringIO):
    """A stream whose writes wait until they may."""

    def __init__(self):
        super().__init__()
        self.may_write = threading.Event()
        self.entered = threading.Event()
        self.error = None

    def write(self, text):
        self.entered.set()
        self.may_write.wait(10)
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.quick
def test_lines_that_find_no_room_are_dropped_counted_and_told_when_there_is_room_again():
    stream = Stalled()
    queue = LineQueue(lambda: stream, "dropped {}".format)
    queue.put("first")
    stream.entered.wait(10)  # the thread holds it and waits
    for number in range(1500):
        queue.put(f"line {number}")
    assert queue.dropped == 500
    stream.may_write.set()
    queue.close()
    lines = stream.getvalue().splitlines()
    assert lines == ["first", *(f"line {number}" for number in range(1000)), "dropped 500"]
    assert queue.dropped == 0


@pytest.mark.quick
@pytest.mark.parametrize("error", [OSError(28, "full"), OutputFailedError("full"), BrokenPipeError()])
def test_lines_of_a_stream_that_fails_are_dropped_and_counted(error):
    stream = Stalled()
    stream.error = error
    stream.may_write.set()
    queue = LineQueue(lambda: stream, "dropped {}".format)
    queue.put("one")
    queue.close()
    assert queue.dropped == 1


@pytest.mark.quick
def test_a_stream_that_never_takes_anything_does_not_keep_the_process(monkeypatch):
    monkeypatch.setattr("mqcore.cli._output._CLOSE_TIMEOUT_S", 0.01)
    stream = Stalled()
    queue = LineQueue(lambda: stream, "dropped {}".format)
    queue.put("one")
    queue.close()
    assert stream.getvalue() == ""
    stream.may_write.set()


@pytest.mark.quick
def test_a_whole_writer_goes_on_after_a_short_write(monkeypatch):
    taken = bytearray()

    def write(descriptor, data):
        taken.extend(data[:3])
        return min(3, len(data))

    monkeypatch.setattr(os, "write", write)
    assert _WholeWriter(1).write(b"0123456789") == 10
    assert taken == b"0123456789"


@pytest.mark.quick
@pytest.mark.parametrize("arguments", [["--help"], ["topic", "create", "--help"], ["--version"], ["plugins"]])
def test_a_reader_that_is_gone_before_anything_is_printed_is_no_failure(environment, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    ended = run(arguments, environment, stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.quick
def test_an_interrupt_while_the_command_is_being_loaded_is_no_traceback(environment):
    program = """
import sys
class Interrupted:
    def find_spec(name, *_):
        if name == "mqcore.cli._root":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted)
from mqcore.cli import main
main(["plugins"])
"""
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (130, b"")
