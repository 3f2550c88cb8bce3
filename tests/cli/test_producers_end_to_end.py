"""Producers with a name as a user runs them: who goes on, who is refused, and what is known of them."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def run(mqcore_command, serve, tmp_path):
    served = serve("--storage", f"mmap://{tmp_path / 'data'}", "--listen", "tcp://127.0.0.1:0")

    def run(*arguments, stdin=b"", status=0):
        done = mqcore_command("--server", served.urls[0], *arguments, stdin=stdin)
        assert done.returncode == status, done.stderr
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done

    run("topic", "create", "lines", "--partitions", "2")
    return run


def test_r12_produce_under_a_name_says_where_the_one_before_had_come_to(run):
    send = ("produce", "lines", "--partition", "1", "--producer-name", "billing")
    first = run(*send, stdin=b"a\nb\n")
    assert "mqcore: producer billing: epoch 1, nothing was stored before" in first.stderr
    second = run(*send, stdin=b"c\n")
    text = "mqcore: producer billing: epoch 2, the last message stored before is in partition 1 at offset 1"
    assert text in second.stderr
    assert "published 1 message" in second.stdout
    listed = json.loads(run("producer", "list", "--output", "json").stdout)
    assert (listed["name"], listed["topic"], listed["epoch"]) == ("billing", "lines", 2)
    shown = run("producer", "describe", "billing", "--topic", "lines").stdout
    assert shown.splitlines()[0] == "billing in lines: epoch 2"
    assert [line.split() for line in shown.splitlines()[-2:]] == [["0", "-", "none"], ["1", "2", "stored"]]


def test_r12_a_deleted_name_begins_anew(run):
    send = ("produce", "lines", "--producer-name", "billing")
    run(*send, stdin=b"a\n")
    refused = run("producer", "delete", "billing", "--topic", "lines", status=2)
    assert "add --yes" in refused.stderr
    done = run("producer", "delete", "billing", "--topic", "lines", "--yes")
    assert done.stdout == "deleted billing of lines, which was at epoch 1\n"
    assert run("producer", "list").stdout.count("billing") == 0
    assert "epoch 1, nothing was stored before" in run(*send, stdin=b"b\n").stderr
    unknown = run("producer", "describe", "other", "--topic", "lines", status=1)
    assert "no producer 'other' of topic 'lines' here; 'mqcore producer list' shows them all" in unknown.stderr
