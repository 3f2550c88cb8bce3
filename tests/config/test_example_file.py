"""The commented example of `mqcore config init` and the pages that repeat the keys: both made from the classes."""

import os
import re
import tomllib
from pathlib import Path

import attrs
import pytest

from mqcore.config import (
    DEFAULT_LISTEN,
    BrokerConfig,
    ListenTable,
    StorageTable,
    TopicConfig,
    commented_example,
    keys_as_markdown,
    limits_as_markdown,
    load_config,
    parts_as_markdown,
)
from mqcore.guarantees import AsyncFlush, Build, Fault, FlushPolicy, Level, SyncFlush, clauses_as_markdown, explain

DOCS = Path(__file__).parents[2] / "docs"
EXPECTED = BrokerConfig(storage=StorageTable(url="mmap:///var/lib/mqcore"), listen=(ListenTable(url=DEFAULT_LISTEN),))

FILE = Build(storage="mmap:///tmp/a", append_level=Level.PAGE_CACHE, flush_level=Level.DISK)


def table_of(flush: FlushPolicy) -> str:
    """Return what `mqcore explain` prints of a file under ``flush``: the table."""
    lines = explain(attrs.evolve(FILE, flush=flush)).lines()
    return "\n".join(f"    {line}".rstrip() for line in lines[lines.index("") + 1 : -3])


def refusal_of(build: Build) -> str:
    """Return the lines by which `mqcore explain` refuses ``build``."""
    lines = explain(build).lines()
    first = next(index for index, line in enumerate(lines) if line.startswith("refused"))
    return "\n".join(f"    {line}" for line in lines[first:])


def test_the_example_as_written_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(commented_example())
    assert load_config(path) == EXPECTED


def test_the_example_with_every_key_uncommented_is_the_defaults_too(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    text = re.sub(r"(?m)^#(?=[\[a-z])", "", commented_example("memory://"))
    path.write_text(text)
    config = load_config(path)
    assert config.topics == {"example": TopicConfig()}
    assert config.limits == EXPECTED.limits
    assert (config.flush, config.replication, config.survive) == (EXPECTED.flush, EXPECTED.replication, ())
    assert config.storage == StorageTable(url="memory://")
    assert set(tomllib.loads(text)) == {
        "name", "survive", "insecure", "log_level", "storage", "listen", "tls", "flush", "replication", "retention",
        "limits", "topics",
    }  # fmt: skip


def test_every_key_stands_in_the_example_with_words_about_it() -> None:
    example = commented_example()
    for line in keys_as_markdown().splitlines():
        if match := re.match(r"\| `(\w+)` \| .* \| (.*) \| `MQCORE_\w+` \|$", line):
            assert match[2], f"{match[1]} has no explanation"
            assert re.search(rf"(?m)^#?(# )?{match[1]} (=|\(unset\))", example), f"{match[1]} is missing"
    assert max(map(len, example.splitlines())) <= 102


@pytest.mark.needs("source-tree")
def test_the_toml_of_the_pages_is_read(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", (DOCS / "composing.md").read_text(), re.DOTALL)
    assert len(examples) == 3
    for text in examples:
        path = tmp_path / "broker.toml"
        path.write_text(text)
        assert load_config(path).storage.url == "mmap:///var/lib/mqcore"


@pytest.mark.needs("source-tree")
@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("composing.md", "keys"),
        ("composing.md", "parts"),
        ("design/limits.md", "limits"),
        ("design/guarantees.md", "clauses"),
        ("acknowledgements.md", "explain-async"),
        ("acknowledgements.md", "explain-sync"),
        ("acknowledgements.md", "refused-survive"),
        ("acknowledgements.md", "refused-flush"),
    ],
)
def test_pages_repeat_what_the_code_says(page: str, name: str) -> None:
    """With MQCORE_TEST_UPDATE set, the page is rewritten instead."""
    makers = {
        "keys": keys_as_markdown,
        "parts": parts_as_markdown,
        "limits": limits_as_markdown,
        "clauses": clauses_as_markdown,
        "explain-async": lambda: table_of(AsyncFlush(max_messages=1000, max_bytes=10**6, max_interval_ms=200)),
        "explain-sync": lambda: table_of(SyncFlush()),
        "refused-survive": lambda: refusal_of(attrs.evolve(FILE, flush=AsyncFlush(), survive=(Fault.POWER_CUT,))),
        "refused-flush": lambda: refusal_of(
            Build(storage="memory://", append_level=Level.MEMORY, flush_level=Level.MEMORY, flush=SyncFlush())
        ),
    }
    path = DOCS / page
    text = path.read_text()
    pattern = re.compile(rf"(<!-- generated: {name} -->\n\n)(.*?)(\n\n<!-- end -->)", re.DOTALL)
    match = pattern.search(text)
    assert match, f"{page} has no block {name}"
    expected = makers[name]()
    if "MQCORE_TEST_UPDATE" in os.environ:
        path.write_text(text[: match.start(2)] + expected + text[match.end(2) :])
        return
    assert match[2] == expected, f"write {page} anew: MQCORE_TEST_UPDATE=1 pytest tests/config/test_example_file.py"
