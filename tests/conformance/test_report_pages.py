"""The pages of a report: complete, safe against hostile names, readable by machines, quick with a thousand cells."""

from __future__ import annotations

import html.parser
import json
import platform
import socket
import time
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mqcore.errors import ConfigurationError
from mqcore.guarantees import CLAUSES
from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.cli._progress import line_of
from mqcore_conformance.report import (
    NOT_BUILT,
    Record,
    diff,
    exit_code_of,
    latest,
    made_with,
    matrix,
    merged,
    read_records,
    write_pages,
)
from mqcore_conformance.report._html import page
from mqcore_conformance.report._junit import junit
from mqcore_conformance.report._lock import claims_lock
from mqcore_conformance.report._records import contents_of
from mqcore_conformance.seeds import ranges_of

HOSTILE = "</title><script>alert('x')</script><img src=x onerror=alert(1)>|`*&\"'\x1b[31m\0"


def cell(name: str = "T0/mmap/tcp/sync/kill", status: str = "PASS", **changes: Any) -> Record:
    tier, storage, transport, flush, family = name.split("/") if name.count("/") == 4 else ("T0", "s", "t", "f", "k")
    record: Record = {
        "kind": "cell",
        "name": name,
        "tier": tier,
        "storage": f"{storage}://{{dir}}",
        "transport": transport,
        "flush": flush,
        "family": family,
        "status": status,
        "clauses": {clause: "NOT RUN" for clause in CLAUSES} | {"G01": status, "G02": "PASS"},
        "how": "sampled: 2 seeds",
        "runs": 2,
        "reason": "",
        "seeds": [0, 1],
        "digests": {},
        "witnesses": {"process-kill": 2},
        "failures": [],
        "events": 100,
        "seconds": 0.5,
    }
    if status == "FAIL":
        violation = {
            "clause": "G01",
            "anomaly": "lost write",
            "partition": "p",
            "events": [2],
            "text": "G01: it is gone",
        }
        record["failures"] = [
            {"seed": 1, "repro": "repro/00000000", "violations": [violation], "error": "", "exits": []}
        ]
    return {**record, **changes}


def check(name: str = "contract/mmap/views_stay_valid", status: str = "PASS", **changes: Any) -> Record:
    record: Record = {
        "kind": "check",
        "name": name,
        "tier": "contract",
        "part": name.split("/")[1],
        "url": "mmap://{dir}",
        "clause": "G04",
        "summary": "A view stays valid.",
        "status": status,
        "how": "observed",
        "text": "",
        "printed": "",
        "repro": "",
        "seconds": 0.1,
    }
    return {**record, **changes}


class Reader(html.parser.HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


# ---- report.html -----------------------------------------------------------------------------------------------------


def test_every_square_of_the_grid_links_to_details_that_are_there() -> None:
    reader = Reader(page([cell(), cell("T0/mmap/tcp/sync/rot", "FAIL"), check(), check("contract/tcp/x", "FAIL")]))
    sections = [section["id"] for section in reader.all("section")]
    assert sections == [
        "cell-T0-mmap-tcp-sync-kill",
        "cell-T0-mmap-tcp-sync-rot",
        "check-mmap-views_stay_valid",
        "check-tcp-x",
    ]
    links = [link["href"] for link in reader.all("a")]
    assert all(f"#{section}" in links for section in sections)
    ids = {attributes["id"] for _, attributes in reader.tags if "id" in attributes}
    assert {link.removeprefix("#") for link in links} <= ids


def test_failures_are_listed_above_the_grid_worst_first_each_with_a_link() -> None:
    late = cell("T0/mmap/tcp/sync/slow", "LIVENESS", reason="it took too long")
    text = page([cell(), late, check("contract/tcp/x", "FAIL")])
    above = text.partition("<h2 id=grid>")[0]
    assert "<h2>Failures: 2</h2>" in above
    assert 0 < above.index("href='#check-tcp-x'") < above.index("href='#cell-T0-mmap-tcp-sync-slow'")
    assert "it took too long" in above
    assert "Failures" not in page([cell(), check()])


def test_the_page_loads_nothing_and_runs_only_its_own_script() -> None:
    text = page([cell(), check()])
    reader = Reader(text)
    assert "http:" not in text
    assert "https:" not in text
    assert not reader.all("link") + reader.all("img") + reader.all("iframe")
    (policy,) = (meta["content"] for meta in reader.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy


def test_hostile_names_and_texts_are_text_and_nothing_else() -> None:
    records = [
        cell(HOSTILE, "FAIL", storage=HOSTILE, transport=HOSTILE, flush=HOSTILE, family=HOSTILE, reason=HOSTILE),
        cell("a" + HOSTILE, how=HOSTILE, witnesses={HOSTILE: 1}, printed=HOSTILE, tier=HOSTILE),
        check("contract/x/" + HOSTILE, "FAIL", part=HOSTILE, text=HOSTILE, summary=HOSTILE, printed=HOSTILE),
        {"kind": "run", "arguments": {HOSTILE: HOSTILE}, "made_with": {HOSTILE: HOSTILE}},
    ]
    reader = Reader(page(records))
    assert len(reader.all("script")) == 1
    assert not reader.all("img")
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    assert all(set(attributes["href"]) <= set("#abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")
               for attributes in reader.all("a"))  # fmt: skip
    assert "<script" not in matrix(records)
    tomllib.loads(claims_lock(records))
    ElementTree.fromstring(junit(records))


def test_names_that_look_alike_get_links_of_their_own() -> None:
    reader = Reader(page([cell("T0/a b/tcp/sync/kill"), cell("T0/a+b/tcp/sync/kill")]))
    ids = [section["id"] for section in reader.all("section")]
    assert len(set(ids)) == 2


def test_a_repro_outside_its_folder_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "failure.txt").write_text("not for the page")
    record = cell(status="FAIL")
    record["failures"][0]["repro"] = "repro/../../secret"
    folder = tmp_path / "report"
    (folder / "repro").mkdir(parents=True)
    assert "not for the page" not in page([record], folder)


def test_a_thousand_cells_are_written_in_seconds_and_few_bytes(tmp_path: Path) -> None:
    records = [cell(f"T0/s{row}/tcp/sync/f{column}") for row in range(50) for column in range(20)]
    began = time.process_time()
    write_pages(tmp_path, records)
    assert time.process_time() - began < 5
    assert (tmp_path / "report.html").stat().st_size < 4_000_000


def test_what_is_not_built_yet_is_told_on_every_page_and_has_no_row_in_the_grid() -> None:
    text, table = page([cell()]), matrix([cell()])
    assert table.count("not built yet") >= len(NOT_BUILT)
    for row in NOT_BUILT:
        assert row.what in table
        assert row.what in text.partition("<h2 id=grid>")[0]
        assert row.what not in text.partition("<h2 id=grid>")[2]


def test_the_page_opens_with_what_it_could_not_have_caught() -> None:
    not_run = [cell(f"T0/s/tcp/sync/f{number}", "NOT RUN", reason="it has no disk") for number in range(6)]
    text = page([cell(), cell("T0/s/tcp/sync/power-cut", "INCONCLUSIVE"), *not_run, check(status="FAIL")])
    opening = text.partition("could not have caught")[2].partition("<h2")[0]
    assert text.index("could not have caught") < text.index("<h2>Failures")
    assert "href='#cell-T0-s-tcp-sync-power-cut'" in opening
    assert "Not run, it has no disk:" in opening
    assert "<summary>2 more</summary>" in opening
    assert "No cell and no check had anything to judge for G03" in opening
    assert "--seeds 20" in opening
    assert "(--tier T1)" in opening


def test_a_square_is_plain_green_only_where_every_clause_was_judged() -> None:
    every = dict.fromkeys(CHECKERS, "PASS")
    for clauses, style in ((every, "s PASS"), (every | {"G11": "NOT RUN"}, "s PASS_PART")):
        reader = Reader(page([cell(clauses=clauses)]))
        squares = [one["class"] for one in reader.all("td") if one.get("class", "").startswith("s PASS")]
        assert squares[0] == style
    assert f"pass {len(CHECKERS) - 1}/{len(CHECKERS)}" in page([cell(clauses=every | {"G11": "NOT RUN"})])


def test_each_tier_has_a_table_with_the_columns_of_its_own_faults() -> None:
    text = page([cell("T0/mmap/tcp/sync/rot"), cell("T1/mmap/tcp/sync/proxy-cut", tier="T1")])
    first, second = text.partition("<h2 id=grid>")[2].split("<h3>")[1:3]
    assert "<th scope=col>rot" in first
    assert "proxy-cut<" not in first.partition("</thead>")[0]
    assert "<th scope=col>rot" not in second.partition("</thead>")[0]


# ---- matrix.md, junit.xml, claims.lock -------------------------------------------------------------------------------


def test_the_matrix_shows_cells_clauses_and_checks() -> None:
    text = matrix(
        [cell(), cell("T0/mmap/tcp/sync/rot", "FAIL"), check(), check("contract/null/views_stay_valid", "FAIL")]
    )
    assert "| T0 | `mmap://{dir}` | tcp | sync | none | pass | **FAIL** |" in text
    assert "| G01 no lost acknowledgement | **FAIL** | 1 cells, 0 checks |" in text
    assert "| views stay valid | G04 | pass | **FAIL** |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(not line.startswith("| |") for line in rows)


def test_families_stand_in_the_order_of_the_catalogue_whichever_ended_first() -> None:
    text = matrix([cell(f"T0/mmap/tcp/sync/{family}") for family in ("rot", "odd", "pause", "kill", "none")])
    assert "| replication | none | kill | rot | pause | odd |" in text


def test_junit_counts_failures_errors_and_what_was_skipped() -> None:
    root = ElementTree.fromstring(junit([cell(), cell("T0/mmap/tcp/sync/rot", "FAIL"), check(status="ERROR")]))
    assert root.tag == "testsuites"
    assert {suite.get("name") for suite in root} == {"T0/mmap://{dir}", "contract/mmap"}
    cases = 2 * len(CLAUSES) + 1
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == (str(cases), "1", "1")
    assert int(root.get("skipped", "0")) == cases - 2 - 3
    assert len(list(root.iter("testcase"))) == cases
    (failure,) = root.iter("failure")
    assert failure.get("message") == "G01: it is gone; replay: repro/00000000"


def test_claims_lock_says_what_the_verdicts_were_made_with_and_not_where(tmp_path: Path) -> None:
    run: Record = {"kind": "run", "arguments": {"--tier": "T0"}, "made_with": dict(made_with(tmp_path))}
    text = claims_lock([run, cell(seeds=[0, 1, 2, 7])])
    lock = tomllib.loads(text)
    assert lock["made_with"]["python"] == platform.python_version()
    assert {"mqcore", "trio", "kernel", "file system", "cores"} < set(lock["made_with"])
    assert lock["asked_for"] == {"--tier": "T0"}
    assert lock["verdicts"]["T0/mmap/tcp/sync/kill"] == "PASS, seeds 0-2, 7"
    assert socket.gethostname() not in text


def test_what_is_committed_does_not_depend_on_what_ended_first() -> None:
    cells = [cell(f"T0/{storage}/tcp/sync/{family}") for storage in ("mmap", "bad") for family in ("rot", "kill")]
    run: Record = {"kind": "run", "arguments": {}, "made_with": {}, "made_of": {"mmap": "mqcore 1.0, files 00"}}
    checks = [check("contract/mmap/" + name) for name in ("limits_hold", "views_stay_valid")]
    records = [one | {"of": contents_of(one, run["made_of"])} for one in (*cells, *checks)]
    assert matrix([run, *records]) == matrix([run, *reversed(records)])
    assert claims_lock([run, *records]) == claims_lock([run, *reversed(records)])
    lock = tomllib.loads(claims_lock([run, *records]))
    assert lock["made_of"] == {"mmap": "mqcore 1.0, files 00"}
    assert list(lock["verdicts"]) == sorted(lock["verdicts"])


# ---- records ---------------------------------------------------------------------------------------------------------


def test_diff_tells_what_changed_colour_what_came_and_what_went() -> None:
    old = [cell("T0/a/tcp/sync/kill"), cell("T0/b/tcp/sync/kill"), check()]
    new = [cell("T0/a/tcp/sync/kill", "FAIL"), cell("T0/c/tcp/sync/kill"), check()]
    assert diff(old, new) == [
        "T0/a/tcp/sync/kill G01: PASS -> FAIL",
        "T0/b/tcp/sync/kill: vanished (was PASS)",
        "T0/c/tcp/sync/kill: new, PASS",
    ]
    assert diff(old, old) == []


@pytest.mark.parametrize(
    ("statuses", "complete", "code"),
    [
        (["PASS", "NOT RUN"], True, 0),
        (["PASS"], False, 4),
        (["NOT RUN"], True, 4),
        ([], True, 4),
        (["PASS", "INCONCLUSIVE"], True, 4),
        (["LIVENESS", "INCONCLUSIVE"], True, 3),
        (["ERROR", "LIVENESS"], True, 5),
        (["FAIL", "ERROR", "LIVENESS"], False, 1),
        (["XPASS"], True, 1),
        (["XFAIL"], True, 0),
    ],
)
def test_the_exit_status_is_that_of_the_worst(statuses: list[str], complete: bool, code: int) -> None:
    records = [cell(f"T0/s{number}/t/f/k", status) for number, status in enumerate(statuses)]
    assert exit_code_of(records, complete=complete) == code


def test_the_last_record_of_a_name_counts_and_parts_give_way_to_their_cell() -> None:
    part = cell(kind="part", name="T0/mmap/tcp/sync/kill, part 1 of 2", cell="T0/mmap/tcp/sync/kill", number=1, count=2)
    assert latest([cell(status="ERROR"), cell()]) == [cell()]
    assert latest([part]) == [part]
    assert latest([part, cell()]) == [cell()]


def test_parts_of_a_cell_are_merged_so_that_one_bite_is_enough_and_one_failure_too() -> None:
    parts = [
        cell(kind="part", cell="T0/mmap/tcp/sync/kill", number=1, count=3, status="INCONCLUSIVE"),
        cell(kind="part", cell="T0/mmap/tcp/sync/kill", number=2, count=3, seeds=[2, 3]),
    ]
    whole = merged(parts)
    assert (whole["kind"], whole["status"], whole["seeds"], whole["runs"]) == ("cell", "PASS", [0, 1, 2, 3], 4)
    assert whole["witnesses"] == {"process-kill": 4}
    failing = cell(kind="part", cell="T0/mmap/tcp/sync/kill", number=3, count=3, status="FAIL")
    assert merged([*parts, failing])["clauses"]["G01"] == "FAIL"


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b'{"kind": "opinion"}\n',
        b'{"kind": "cell", "name": 7}\n',
        json.dumps(cell(status="WONDERFUL")).encode() + b"\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"kind": ["cell"]}\n',
    ],
)
def test_a_report_that_was_changed_is_refused_by_file_and_line(line: bytes, tmp_path: Path) -> None:
    file = tmp_path / "report.jsonl"
    file.write_bytes(json.dumps(cell()).encode() + b"\n" + line)
    with pytest.raises(ConfigurationError, match=r"report\.jsonl, line 2: "):
        read_records(tmp_path)


def test_a_last_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "report.jsonl"
    file.write_bytes(json.dumps(cell()).encode() + b"\n" + b'{"kind": "cel')
    assert read_records(tmp_path) == [cell()]


def test_seeds_in_text() -> None:
    assert ranges_of([3, 1, 2, 9, 11, 12]) == "1-3, 9, 11-12"
    assert ranges_of([]) == ""


def test_a_line_quotes_the_clause_that_gave_the_cell_its_status() -> None:
    failing = cell(status="FAIL")
    late = {"clause": "G13", "anomaly": "no progress", "partition": "", "events": [], "text": "G13 no progress"}
    slow = {"seed": 0, "repro": "", "error": "", "exits": ["life 2: CorruptionError: torn"], "violations": [late]}
    failing["failures"].insert(0, slow)
    failing["clauses"]["G13"] = "LIVENESS"
    assert "G01: it is gone" in line_of(failing)
    failing["clauses"]["G01"], failing["status"] = "XFAIL", "LIVENESS"
    told = "seed 0: G13 no progress (it ended by itself: life 2: CorruptionError: torn)"
    assert told in line_of(failing)


def test_failures_of_parts_come_worst_first() -> None:
    late = {"clause": "G13", "text": "late"}
    lost = {"clause": "G01", "text": "lost"}
    parts = [
        cell(kind="part", cell="c", number=number, count=2, failures=[{"error": "", "violations": [one]}])
        for number, one in ((1, late), (2, lost))
    ]
    assert [failure["violations"][0]["text"] for failure in merged(parts)["failures"]] == ["lost", "late"]
