"""mqcore config check, show and diff: what they print is what a broker would read, and can be read again."""

from __future__ import annotations

import json

import pytest

from mqcore.config import load_config

TEXT = """
name = "n1"
storage.url = "mmap:///var/lib/mq"
storage.segment_bytes = "16 MB"
survive = ["process-kill"]
flush = "async(max_messages=100, max_interval=5ms)"
[[listen]]
url = "tcp://127.0.0.1:7400"
advertise = "tcp://mq.example:7400"
[limits]
connections_max = 99
[topics."with.dots"]
partitions = 3
visible = "stable"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "broker.toml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("effective", [False, True])
def test_what_is_shown_reads_as_the_same_configuration(cli, file, tmp_path, effective):
    result = cli("config", "show", file, *(["--effective"] if effective else []))
    assert (result.status, result.err) == (0, "")
    again = tmp_path / "again.toml"
    again.write_text(result.out)
    assert load_config(again) == load_config(file)
    assert ("limits.frame_bytes_max" in result.out) == effective
    assert cli("config", "diff", file, again).status == 0


def test_an_example_of_every_key_shows_as_what_it_is(cli, tmp_path):
    assert cli("config", "init", "--to", tmp_path).status == 0
    shown = cli("config", "show", tmp_path / "broker.toml", "--effective")
    (tmp_path / "again.toml").write_text(shown.out)
    assert load_config(tmp_path / "again.toml") == load_config(tmp_path / "broker.toml")


def test_flags_go_over_the_file_and_are_shown(cli, file):
    keys = json.loads(cli("config", "show", file, "--limit", "connections_max=7", "--output", "json").out)
    assert keys["limits.connections_max"] == 7
    assert keys["storage.segment_bytes"] == "16 MB"


def test_passwords_are_not_shown(cli, file, tmp_path):
    path = tmp_path / "secret.toml"
    path.write_text('storage.url = "mmap:///a?password=hunter2"\nlisten = ["tcp://me:hunter2@127.0.0.1:1"]\n')
    result = cli("config", "show", path, "--effective")
    assert result.status == 0, result.err
    assert "hunter2" not in result.out
    assert result.out.count("***") == 2


def test_diff_names_what_changes_and_ends_with_1(cli, file, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(
        TEXT.replace("= 99", "= 98").replace('name = "n1"\n', "").replace("partitions = 3", "partitions = 4")
    )
    result = cli("config", "diff", file, other)
    assert result.status == 1
    assert result.out.splitlines() == [
        "limits.connections_max: 99 -> 98",
        "name: n1 -> mqcore",
        'topics."with.dots".partitions: 3 -> 4',
    ]
    lines = cli("config", "diff", file, other, "--output", "json").out.splitlines()
    assert json.loads(lines[0]) == {"key": "limits.connections_max", "old": 99, "new": 98}


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("storage.url = 'nothing:///a'", 2, "no storage backend is called 'nothing'"),
        ("storage.url = 'mmap:///a'\nlimits.connections_max = 0", 2, "connections_max"),
        ("storage.url = 'mmap:///a'\nunknown = 1", 2, "unknown"),
        ("storage.url = 'memory://'\nsurvive = ['power-cut']", 3, "power-cut"),
        ("storage", 2, "not valid TOML"),
        ("storage.url = 'memory://'\nflush = 'none'\nlisten = 'tcp://0.0.0.0:0'", 2, "say --insecure"),
        ("storage.url = 'memory://'\nflush = 'none'\naccess.authenticators = ['tsl']", 2, "did you mean 'tls'?"),
    ],
)
def test_check_refuses_as_serve_would(cli, tmp_path, text, status, message):
    path = tmp_path / "broker.toml"
    path.write_text(text)
    result = cli("config", "check", path)
    assert (result.status, result.out) == (status, "")
    assert message in result.err
    assert cli("serve", "--config", path).status == status


def test_check_says_that_it_is_right(cli, tmp_path):
    path = tmp_path / "broker.toml"
    path.write_text(f"storage.url = 'mmap://{tmp_path}/a'")
    assert "right; broker 'mqcore'" in cli("config", "check", path).out
    assert json.loads(cli("config", "check", path, "--output", "json").out)["right"] is True
    assert not (tmp_path / "a").exists()
