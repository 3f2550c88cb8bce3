"""explain, config, plugins, storage and new: what a build promises, which parts there are, what a disk holds."""

from __future__ import annotations

import json
import signal
import stat

import pytest

from mqcore.config import load_config

pytestmark = pytest.mark.quick


def test_explain_prints_a_row_for_every_fault(cli, tmp_path):
    result = cli("explain", "--storage", f"mmap://{tmp_path}/s", "--flush", "sync")
    assert result.status == 0
    for fault in ("process-kill", "node-power-cut", "power-cut", "disk-loss", "host-loss"):
        assert f"\n{fault} " in result.out
    assert not (tmp_path / "s").exists(), "explain opens nothing"


def test_explain_says_what_each_listener_is(cli, tmp_path):
    urls = ("tcp://127.0.0.1:0", f"unix://{tmp_path}/s", "tls://127.0.0.1:0", "tls://127.0.0.1:1?client_ca=/ca.pem")
    listen = [word for url in urls for word in ("--listen", url)]
    build = ["explain", "--storage", "memory://", "--flush", "none", *listen]
    told = json.loads(cli(*build, "--output", "json").out)["listeners"]
    assert [each["url"] for each in told] == list(urls)
    assert [(each["encrypted"], each["authenticated"], each["local_only"]) for each in told] == [
        (False, False, False), (False, True, True), (True, False, False), (True, True, False),
    ]  # fmt: skip
    out = cli(*build).out
    assert "  tls://127.0.0.1:1?client_ca=/ca.pem: encrypted, knows its peers, a connection for each stream" in out
    assert "  tcp://127.0.0.1:0: not encrypted, peers stay unknown" in out


def test_explain_says_where_cursors_are_kept_and_refuses_what_is_no_offset_store(cli, tmp_path, monkeypatch):
    build = ["explain", "--storage", "memory://", "--flush", "none"]
    told = "Cursors of groups are kept in sqlite:///var/o.db, for processes of one host: a commit is acknowledged once"
    given = cli(*build, "--offset-store", "sqlite:///var/o.db", "--output", "json")
    assert any(note.startswith(told) for note in json.loads(given.out)["notes"])
    assert "offset" not in cli(*build).out.lower().replace("offset_store", "")
    monkeypatch.setenv("MQCORE_OFFSET_STORE", "sqlite:///var/o.db")
    assert any(note.startswith(told) for note in json.loads(cli(*build, "--output", "json").out)["notes"])
    refused = cli(*build, "--offset-store", "mysql:///x")
    assert refused.status == 2
    assert "no offset store is called 'mysql'; installed: file, postgres, sqlite, zookeeper" in refused.err


def test_explain_refuses_a_flush_that_reaches_no_disk_with_status_3(cli):
    result = cli("explain", "--storage", "memory://", "--flush", "sync")
    assert result.status == 3
    assert "refused" in result.out
    assert 'flush = "none"' in result.out


def test_explain_refuses_what_the_build_cannot_survive_and_says_what_may_be_lost(cli, tmp_path):
    build = ("--storage", f"mmap://{tmp_path}/s", "--flush", "async", "--survive", "power-cut", "--output", "json")
    result = cli("explain", *build)
    told = json.loads(result.out)
    assert result.status == 3
    assert told["starts"] is False
    assert "power-cut" in json.dumps(told["refusals"])


def test_serve_refuses_what_explain_refuses(cli):
    result = cli("serve", "--storage", "memory://", "--flush", "sync")
    assert result.status == 3
    assert "refused" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--storage", "nosuch:///x"),
        ("--storage", "mmap:///x?nosuch=1"),
        ("--storage", "memory://", "--flush", "sometimes"),
        ("--storage", "memory://", "--limit", "frame_bytes_max=17 parsecs"),
        ("--storage", "memory://", "--limit", "nosuch=1"),
        ("--storage", "memory://", "--limit", "novalue"),
        ("--storage", "memory://", "--survive", "taxes"),
        ("--storage", "memory://", "--listen", "nosuch://x"),
        (),
    ],
    ids=" ".join,
)
def test_what_cannot_be_configured_is_status_2_and_named(cli, arguments):
    result = cli("explain", *arguments)
    assert result.status == 2
    assert 1 <= len(result.err.splitlines()) <= 2
    words = arguments[-1].replace("=", " ").replace("?", " ").split() if arguments else ["--storage"]
    assert any(word.partition("://")[0] in result.err for word in words)


def test_flags_go_before_the_file(cli, tmp_path):
    (tmp_path / "broker.toml").write_text('flush = "none"\n[storage]\nurl = "memory://"\n')
    assert cli("explain", tmp_path / "broker.toml").status == 0
    assert cli("explain", tmp_path / "broker.toml", "--flush", "sync").status == 3


def test_any_key_can_be_set_and_meets_the_flag_of_its_table(cli, tmp_path):
    build = ("explain", "--storage", f"mmap://{tmp_path}/s")
    bounds = ("--flush", "async", "--set", "flush.max_messages=17", "--set", "topics.orders.flush=sync")
    result = cli(*build, *bounds, "--set", "storage.segment_bytes=16 MiB")
    assert result.status == 0
    assert "at most 17 messages" in result.out
    assert "orders" in result.out
    for key in ("storage.nosuch=1", "storage.segment_bytes=4 parsecs", "nosuch.key=1", "novalue", "=1"):
        refused = cli(*build, "--set", key)
        assert refused.status == 2
        assert key.partition("=")[0].rpartition(".")[2] in refused.err


def test_config_init_writes_a_file_that_loads_and_never_replaces_one_unasked(cli, tmp_path):
    result = cli("config", "init", "--to", tmp_path / "etc", "--storage", "memory://")
    assert result.status == 0
    path = tmp_path / "etc" / "broker.toml"
    assert load_config(path).storage.url == "memory://"
    again = cli("config", "init", "--to", tmp_path / "etc")
    assert again.status == 2
    assert "--force" in again.err
    assert cli("config", "init", "--to", tmp_path / "etc", "--force").status == 0


def test_plugins_list_names_every_installed_part(cli):
    parts = [json.loads(line) for line in cli("plugins", "list", "--output", "json").out.splitlines()]
    assert {("storage", "mmap"), ("transports", "tcp"), ("codecs", "zlib"), ("commands", "bench")} <= {
        (part["group"], part["name"]) for part in parts
    }


def test_plugins_check_says_which_part_breaks_its_contract(cli):
    from mqcore.registry import register, unregister

    assert cli("plugins", "check", "storage/memory").status == 0
    register("storage", "hollow", type("Hollow", (), {}))
    try:
        result = cli("plugins", "check")
        assert result.status == 1
        assert any(line.startswith("storage/hollow: ") and "good" not in line for line in result.out.splitlines())
    finally:
        unregister("storage", "hollow")
    assert cli("plugins", "check", "storage/hollow").status == 2
    assert cli("plugins", "check", "hollow").status == 2


@pytest.fixture
def stored(cli, serve, tmp_path):
    """A storage that a broker left in order: one topic, a hundred messages."""
    storage = f"mmap://{tmp_path}/s"
    broker = serve("--storage", storage, "--listen", "tcp://127.0.0.1:0")
    (tmp_path / "text").write_text("".join(f"line {number} {'x' * 100}\n" for number in range(100)))
    assert cli("--server", broker.urls[0], "topic", "create", "lines").status == 0
    assert cli("--server", broker.urls[0], "produce", "lines", tmp_path / "text").status == 0
    broker.process.send_signal(signal.SIGTERM)
    assert broker.process.wait(20) == 0
    return storage


def partition_of(findings):
    return next(finding for finding in findings if finding.get("kind") == "partition")


def test_storage_verify_counts_what_is_there(cli, stored):
    result = cli("storage", "verify", stored, "--output", "json")
    findings = [json.loads(line) for line in result.out.splitlines()]
    assert result.status == 0
    assert findings[-1]["summary"]["sound"] is True
    assert partition_of(findings)["messages"] == 100
    assert "no damage" in cli("storage", "verify", stored).out


@pytest.mark.parametrize("verb", ["verify", "inspect"])
@pytest.mark.parametrize("url", ["memory://", "null://"])
def test_a_storage_that_keeps_nothing_is_not_called_sound(cli, verb, url):
    result = cli("storage", verb, url)
    assert (result.status, result.out) == (2, "")
    assert f"{url} keeps nothing outside the process of its broker" in result.err


def test_storage_verify_finds_a_flipped_byte_and_ends_with_status_5(cli, stored, tmp_path):
    segments = (tmp_path / "s" / "segments").iterdir()
    target, content = next((path, text) for path in segments if b"line 50" in (text := path.read_bytes()))
    at = content.index(b"line 50")
    target.write_bytes(content[:at] + b"L" + content[at + 1 :])
    before = {path: path.stat() for path in (tmp_path / "s").rglob("*") if stat.S_ISREG(path.stat().st_mode)}
    result = cli("storage", "verify", stored)
    assert result.status == 5
    assert "damaged" in result.out
    assert {path: (facts.st_size, facts.st_mtime_ns) for path, facts in before.items()} == {
        path: (path.stat().st_size, path.stat().st_mtime_ns) for path in before
    }, "verifying changes nothing"


def test_storage_inspect_shows_identity_and_offsets(cli, stored):
    text = cli("storage", "inspect", stored).out
    assert "identity: node_id" in text
    assert " partition " in text
    one = cli("storage", "inspect", stored, "--log", "identity", "--output", "json")
    assert [json.loads(line)["name"] for line in one.out.splitlines()] == ["identity"]
    assert cli("storage", "inspect", stored, "--log", "nosuch").status == 2


@pytest.mark.parametrize(
    "name", ["Shelf", "2shelf", "shelf_x", "shelf-", "s" * 31, "mmap", "tcp", "trio", "class", "json", "conformance"]
)
def test_names_that_cannot_be_a_new_scheme_are_refused(cli, tmp_path, name):
    assert cli("new", "storage", name, "--to", tmp_path).status == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["storage", "transport"])
def test_a_new_package_keeps_what_its_tests_write_out_of_git_and_says_how_to_install_it(cli, tmp_path, kind):
    result = cli("new", kind, "wren", "--to", tmp_path)
    folder = tmp_path / "mqcore-wren"
    assert {"report/", ".pytest_cache/"} <= set((folder / ".gitignore").read_text().split())
    assert f"pip install -e '{folder}[test]' && " in result.out
    assert "pip install -e '.[test]'" in (folder / "README.md").read_text()
