"""The pages hold together: links lead somewhere, every page is reached from the index, the README's example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.needs("source-tree")
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def markdown_pages(root: Path) -> list[Path]:
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as the usual renderers make them."""
    headings = re.findall(r"(?m)^#+ (.*)$", FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    return LINK.findall(re.sub(r"`[^`\n]*`", "``", FENCE.sub("", path.read_text())))


def test_every_relative_link_leads_to_a_file_and_a_heading(pages: Any) -> None:
    broken = []
    for path in markdown_pages(pages.root):
        for link in links(path):
            if "://" in link or link.startswith("mailto:"):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
                broken.append(f"{path.relative_to(pages.root)}: {link}")
    assert not broken


def test_every_page_is_reached_from_the_index(pages: Any) -> None:
    reached: set[Path] = set()
    waiting = [pages.docs / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        for link in links(path):
            target = (path.parent / link.partition("#")[0]).resolve()
            if target.is_dir():
                waiting += target.glob("*.md")
            elif target.suffix == ".md" and target.exists():
                waiting.append(target)
    assert {path for path in (pages.docs).rglob("*.md")} - reached == set()


def test_no_page_names_a_path_that_only_its_author_has(pages: Any) -> None:
    for path in markdown_pages(pages.root):
        assert not re.search(r"(?<![\w.])/(root|home|work|tmp/pytest)[/\w-]", path.read_text()), path


def test_the_example_of_the_readme_runs(pages: Any, tmp_path: Path) -> None:
    code = pages.code("../README.md", "readme.py")
    code = code.replace("mmap:///tmp/mq", f"mmap://{tmp_path}/mq")
    code = code.replace("tcp://127.0.0.1:7400", f"unix://{tmp_path}/socket")
    for _ in range(2):  # a reader runs it again, and the topic is there
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("Receipt(topic='lines', partition=")
        assert "level=disk" in result.stdout
