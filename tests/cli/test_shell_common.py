"""The shell of the command line: how it starts, what it accepts, how it ends. Exit codes as documented in its help."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mqcore.cli._root import VERBS

pytestmark = pytest.mark.quick

GROUPS = {"topic": ["create", "alter", "delete", "list", "describe"], "plugins": ["list", "check"],
          "storage": ["inspect", "verify"], "config": ["init"], "new": ["storage", "transport"]}  # fmt: skip
EVERY_COMMAND = [(), *((verb,) for verb in VERBS), *((group, verb) for group in GROUPS for verb in GROUPS[group])]


@pytest.mark.parametrize("path", EVERY_COMMAND, ids=" ".join)
def test_every_command_has_help_with_an_example(cli, path):
    result = cli(*path, "--help")
    assert result.status == 0
    assert "Examples:" in result.out
    assert f"mqcore {' '.join(path)}".strip() in result.out.split("Examples:")[1]


def test_version_imports_next_to_nothing(mqcore_command):
    code = "import sys; from mqcore.cli import main\ntry: main(['--version'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    version, modules = done.stdout.splitlines()
    assert version.startswith("mqcore ")
    assert not {"trio", "attrs", "click", "rich", "cattrs"} & set(modules.split())


# What runs before the command can catch a Ctrl-C ends with Python's traceback: so that is next to nothing, by what it
# loads and not by a clock, and of the rest each module is interrupted while it is loaded.


def test_what_is_loaded_before_an_interrupt_can_be_caught_is_next_to_nothing():
    # The wrapper that an installer writes loads ``re`` and ``sys`` itself.
    code = "import sys, re; there = set(sys.modules); import mqcore.cli; print(*sorted(set(sys.modules) - there))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    frozen = {"importlib._bootstrap", "importlib._bootstrap_external"}
    allowed = {"__future__", "_weakrefset", "importlib", "importlib._abc", "collections.abc", "warnings", *frozen}
    assert set(done.stdout.split()) - allowed == {"mqcore", "mqcore.cli"}


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(module, ["ping"]) for module in ("mqcore.cli._run", "click", "mqcore.errors", "mqcore.cli._root",
                                       "mqcore.cli.ping", "trio")]
    + [(module, ["--version"]) for module in ("importlib.metadata", "mqcore.cli._output", "mqcore.errors")],
)  # fmt: skip
def test_an_interrupt_while_a_module_is_loaded_is_status_130_without_a_traceback(module, arguments):
    code = f"""
import sys
from importlib.abc import MetaPathFinder
class Interrupts(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            print(name, flush=True)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
from mqcore.cli import main
main({arguments!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [module]
    assert (done.returncode, done.stderr.strip()) == (130, "")


@pytest.mark.parametrize("arguments", [("--version", "--output", "json"), ("--output", "json", "--version")])
def test_the_version_is_json_where_output_is(cli, arguments):
    result = cli(*arguments)
    assert result.status == 0
    assert list(json.loads(result.out)) == ["version"]
    text = cli("--version", "--output", "text").out
    assert text == f"mqcore {json.loads(result.out)['version']}\n" == cli("--version").out


def test_help_and_usage_errors_do_not_load_what_talks_to_brokers(mqcore_command):
    code = (
        "import sys; from mqcore.cli import main\n"
        "try: main(['produce', '--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"trio", "rich", "mqcore.client"} & set(done.stdout.splitlines()[-1].split())


def test_an_unknown_verb_is_wrong_usage_and_names_the_nearest(cli):
    result = cli("sevre")
    assert result.status == 2
    assert "did you mean 'serve'?" in result.err


def test_a_verb_of_a_group_that_is_not_there_is_told_like_any_other(cli):
    assert "did you mean 'describe'?" in cli("topic", "descibe").err
    assert "one of alter, confirm-clock, create, delete, describe, list" in cli("topic", "make").err


@pytest.mark.parametrize("arguments", [("topic", "make"), ("produce",), ("consume", "t", "--count", "0"), ("--bad",)])
def test_wrong_usage_is_status_2_in_at_most_two_lines(cli, arguments):
    result = cli(*arguments)
    assert result.status == 2
    assert 1 <= len(result.err.splitlines()) <= 2
    assert result.err.startswith("mqcore: ")


def test_errors_are_json_where_output_is(cli):
    result = cli("--output", "json", "explain", "--storage", "nosuch:///x")
    assert json.loads(result.err)["exit"] == result.status == 2
    assert "nosuch" in json.loads(result.err)["message"]


@pytest.mark.parametrize("place", ["before", "after"])
def test_common_options_stand_before_or_after_the_verb(cli, memory_broker, place):
    common = ("--server", memory_broker.urls[0], "--output", "json")
    verb = ("topic", "list")
    result = cli(*common, *verb) if place == "before" else cli(*verb, *common)
    assert (result.status, result.err) == (0, "")


def test_the_later_of_two_common_options_wins(cli, memory_broker):
    result = cli("--server", "tcp://127.0.0.1:1", "topic", "--server", memory_broker.urls[0], "list")
    assert result.status == 0


def test_servers_are_tried_in_order_until_one_answers(cli, memory_broker):
    result = cli("--server", "tcp://127.0.0.1:1", "--server", memory_broker.urls[0], "topic", "list")
    assert result.status == 0


def test_the_environment_names_servers_by_comma(cli, memory_broker, monkeypatch):
    monkeypatch.setenv("MQCORE_SERVER", f"tcp://127.0.0.1:1,{memory_broker.urls[0]}")
    assert cli("topic", "list").status == 0


def test_a_server_that_does_not_answer_in_time_is_status_4(cli):
    result = cli("--server", "tcp://127.0.0.1:1", "--timeout", "200 ms", "topic", "list")
    assert result.status == 4
    assert "tcp://127.0.0.1:1" in result.err


@pytest.mark.parametrize(
    "line", [("--timeout", "0", "topic", "list"), ("completion",), ("completion", "tcsh"), ("topic", "lst")]
)
def test_wrong_usage_is_one_line_and_where_to_look(cli, line):
    result = cli(*line)
    assert result.status == 2
    assert [text.split()[0] for text in result.err.splitlines()] == ["mqcore:", "Try"]


def test_a_list_of_verbs_shows_their_first_sentences_whole(cli):
    usage, *text = cli("storage", "--help").out.splitlines()
    assert "..." in usage
    assert "..." not in "".join(text)


def test_a_failure_that_nobody_foresaw_shows_no_traceback_unless_asked(cli, monkeypatch):
    monkeypatch.setattr("mqcore.cli.completion.get_completion_class", lambda _: 1 / 0)
    result = cli("completion", "bash")
    assert result.status == 1
    assert "Traceback" not in result.err
    assert "MQCORE_TRACEBACK=1" in result.err
    monkeypatch.setenv("MQCORE_TRACEBACK", "1")
    assert "ZeroDivisionError" in cli("completion", "bash").err


def test_completion_scripts_are_printed_and_complete(mqcore_command):
    assert b"_MQCORE_COMPLETE" in mqcore_command("completion", "bash").stdout
    done = mqcore_command(_MQCORE_COMPLETE="bash_complete", COMP_WORDS="mqcore pro", COMP_CWORD="1")
    assert b"produce" in done.stdout


def test_a_plugin_verb_that_cannot_be_loaded_leaves_the_help_alone(cli, monkeypatch):
    import mqcore.cli._root as root

    def broken(name):
        raise ImportError("no such library")

    monkeypatch.setattr(root, "_plugin_command", broken)
    result = cli("--help")
    assert result.status == 0
    assert "(cannot be loaded: no such library)" in result.out
