"""The contract checks as their users meet them: the command line, pytest in another repository, a claims file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mqcore.errors import ConfigurationError
from mqcore_conformance.claims import Claims, KnownFailure, find_settings, load_claims, read_settings
from mqcore_conformance.contract import CHECKS, check_part, load_check_repro, write_check_repro
from mqcore_conformance.verdicts import Status

PLUGINS = Path(__file__).parent / "bad_plugins"
TWO_LINES = "from mqcore_conformance.suite import *\n"


def run(*arguments: str, cwd: Path, path: Path = PLUGINS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={"PYTHONPATH": f"{path}:{PLUGINS}", "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def mqcore(*arguments: str, cwd: Path, path: Path = PLUGINS) -> subprocess.CompletedProcess[str]:
    return run("-m", "mqcore", *arguments, cwd=cwd, path=path)


def suite(folder: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, str(folder / "tests"), cwd=cwd or folder)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A third party's repository with the two lines."""
    folder = tmp_path / "repository"
    (folder / "tests").mkdir(parents=True)
    (folder / "tests" / "test_conformance.py").write_text(TWO_LINES)
    settings(folder, 'storage = "bad://{dir}"', 'tiers = ["contract"]')
    return folder


def settings(folder: Path, *lines: str) -> None:
    (folder / "pyproject.toml").write_text("\n".join(("[tool.mqcore.conformance]", *lines)) + "\n")


# ---- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_failure_is_replayed_until_its_part_is_mended(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "mending-1.0.dist-info").mkdir(parents=True)
    (site / "mending-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mending\nVersion: 1.0\n")
    (site / "mending-1.0.dist-info" / "entry_points.txt").write_text("[mqcore.storage]\nmending = mending:Mending\n")
    source = "from mqcore_bad_parts import BadStorage\n\nclass Mending(BadStorage):\n    def lies(self, name):\n"
    (site / "mending.py").write_text(f"{source}        return name == 'forgets-a-truncation'\n")
    arguments = ("--storage", "mending://{dir}", "--transport", "inproc", "--tier", "contract", "--clause", "G07")
    ran = mqcore("conformance", "run", *arguments, "--to", "report", cwd=tmp_path, path=site)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "FAIL         contract/mending/what_was_cut_off_never_comes_back" in ran.stdout
    (replay,) = (line.split()[1:] for line in ran.stdout.splitlines() if line.startswith("replay "))
    assert replay[:3] == ["mqcore", "conformance", "replay"]
    again = mqcore(*replay[1:], cwd=tmp_path, path=site)
    assert again.returncode == 1, again.stdout + again.stderr
    assert "the log ends at 18000 after a stop; it was truncated to 9000" in again.stdout
    (site / "mending.py").write_text(f"{source}        return False\n")
    mended = mqcore(*replay[1:], cwd=tmp_path, path=site)
    assert mended.returncode == 0, mended.stdout + mended.stderr


@pytest.mark.slow
def test_garbage_that_a_part_prints_stays_out_of_the_output_and_a_broken_part_does_not_end_the_run(
    tmp_path: Path,
) -> None:
    arguments = ("--transport", "inproc", "--clause", "G14", "--flush", "sync", "--family", "none", "--seeds", "1")
    arguments += ("--storage", "bad://{dir}?does=print&where=append")
    arguments += ("--storage", "bad://{dir}?does=raise-system-exit&where=capabilities")
    arguments += ("--storage", "bad://{dir}?does=raise-odd&where=append", "--output", "json")
    ran = mqcore("conformance", "run", *arguments, "--to", "report", cwd=tmp_path)
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    statuses = {record["name"]: record["status"] for record in records if "name" in record}
    assert statuses["contract/bad?does=print&where=append/a_flush_states_what_it_reached"] == "PASS"
    assert statuses["contract/bad?does=raise-odd&where=append/a_flush_states_what_it_reached"] == "FAIL"
    assert statuses["T0/bad?does=print&where=append/inproc/sync/none"] == "PASS"
    assert statuses["T0/bad?does=raise-system-exit&where=capabilities/inproc/sync/none"] == "NOT RUN"
    assert statuses["T0/bad?does=raise-odd&where=append/inproc/sync/none"] == "ERROR"
    (reason,) = (one["reason"] for one in records if one.get("name", "").startswith("T0/bad?does=raise-odd"))
    assert reason.startswith("it raised Odd in raise_.<locals>.function")
    assert ran.stderr == ""
    assert ran.returncode in (1, 5)


def test_a_claims_file_that_cannot_be_read_is_wrong_usage_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "claims.toml").write_text('[claims.storage]\nflush_lvl = "disk"\n')
    ran = mqcore("conformance", "list", "--claims", "claims.toml", cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stdout == ""
    told = "mqcore: claims.toml: claims.storage.flush_lvl: unknown key (did you mean 'flush_level'?)"
    assert ran.stderr.startswith(told)
    assert ran.stderr.count("\n") == 1


def test_who_names_no_part_means_those_of_the_repository(repository: Path) -> None:
    ran = mqcore("conformance", "list", "--tier", "contract", cwd=repository)
    assert "contract/bad/a_flush_states_what_it_reached" in ran.stdout, ran.stderr
    assert "contract/mmap" not in ran.stdout
    settings(repository, "storage = 3")
    assert mqcore("conformance", "list", cwd=repository).returncode == 2


# ---- repros --------------------------------------------------------------------------------------------------------


def test_a_repro_is_data_that_is_checked(tmp_path: Path) -> None:
    result = check_part(CHECKS["a_flush_states_what_it_reached"], "memory://")
    place = tmp_path / write_check_repro(tmp_path, "memory://", result)
    assert load_check_repro(place).url == "memory://"
    text = (place / "check.json").read_text()
    broken = [text[:40], "[]", text.replace("it_reached", "it_wished"), text.replace('"steps": []', '"steps": 3')]
    broken.append(text.replace('"steps": []', '"steps": [' + "{}," * 2000 + "{}]"))
    broken.append(text.replace("memory://", "m" * 2_000_000))
    for content in broken:
        (place / "check.json").write_text(content)
        with pytest.raises(ConfigurationError, match=r"check\.json"):
            load_check_repro(place)


# ---- the two lines -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_lines_bring_the_suite_from_any_folder(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    ran = suite(repository, "-k", "G07 or left_out", "-vv", cwd=tmp_path / "elsewhere")
    assert "test_contract[G07-bad-what_was_cut_off_never_comes_back] PASSED" in ran.stdout, ran.stdout + ran.stderr
    assert "test_no_clause_is_left_out PASSED" in ran.stdout
    assert ran.returncode == 0


def test_a_clause_is_picked_by_name_with_the_cells_that_are_about_it_only(repository: Path) -> None:
    settings(repository, 'storage = "bad://{dir}"', 'tiers = ["T0"]')

    def collected(*arguments: str) -> set[str]:
        lines = suite(repository, "--collect-only", *arguments).stdout.splitlines()
        return {line.partition("[")[2].rstrip("]") for line in lines if "test_simulation[" in line}

    every, picked = collected(), collected("-k", "G01")
    assert picked == {one for one in every if one.startswith("G01-")}
    assert {one.rpartition("/")[2] for one in picked} == {"kill", "stop", "power-cut", "mixed"}
    families = {one.rpartition("/")[2] for one in every}
    assert {one.rpartition("/")[2] for one in every if one.startswith("other-clauses-")} == families


@pytest.mark.slow
def test_a_failure_in_pytest_is_one_screen_with_its_replay(repository: Path) -> None:
    settings(repository, 'storage = "bad://{dir}?does=forgets-a-truncation"', 'tiers = ["contract"]')
    ran = suite(repository, "-k", "G07")
    assert ran.returncode == 1
    assert "G07 rejected is invisible: storage bad://{dir}?does=forgets-a-truncation" in ran.stdout
    assert "observed  the log ends at 18000 after a stop; it was truncated to 9000" in ran.stdout
    assert "replay    mqcore conformance replay " in ran.stdout
    assert "Traceback" not in ran.stdout
    (repository / "known.toml").write_text('[[xfail]]\nclause = "G07"\nreason = "to be mended"\nissue = "#1"\n')
    settings(
        repository,
        'storage = "bad://{dir}?does=forgets-a-truncation"',
        'tiers = "contract"',
        'claims = "known.toml"',
    )
    ran = suite(repository, "-k", "G07")
    assert "1 xfailed" in ran.stdout
    assert ran.returncode == 0


@pytest.mark.parametrize(
    ("addition", "told"),
    [
        ("del test_contract\n", "test_contract was deleted"),
        ("def test_no_clause_is_left_out(): pass\n", "test_no_clause_is_left_out was overridden"),
        ("import mqcore_conformance.contract as c\ndel c.CHECKS['a_flush_states_what_it_reached']\n", "was taken out"),
    ],
)
def test_a_clause_that_is_deleted_or_overridden_without_a_reason_fails(
    repository: Path, addition: str, told: str
) -> None:
    (repository / "tests" / "test_conformance.py").write_text(TWO_LINES + addition)
    ran = suite(repository, "-k", "left_out or composing_does_no_io")
    assert told in ran.stdout, ran.stdout
    assert ran.returncode == 1
    assert "[[xfail]]" in ran.stdout


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['storage = "nosuch://{dir}"'], "no storage backend is called 'nosuch'"),
        (['storage = "bad://{dir}"', 'claims = "missing.toml"'], "missing.toml: cannot be read: No such file"),
    ],
)
def test_settings_that_cannot_be_read_are_one_failing_test(repository: Path, lines: list[str], told: str) -> None:
    settings(repository, *lines)
    ran = suite(repository)
    assert "1 failed, 4 skipped" in ran.stdout, ran.stdout
    assert told in ran.stdout


# ---- claims --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[claims\nx", "not valid TOML"),
        (b"claimz = 1\n", "claimz: unknown key (did you mean 'claims'?)"),
        (b'[[xfail]]\nclause = "G99"\nreason = "x"\nissue = "y"\n', "no clause 'G99'; one of G01"),
        (b'[[xfail]]\nclause = "G01"\nissue = "y"\n', "reason must be given"),
        (b'[[xfail]]\nclause = "G01"\nreason = "x"\n', "issue must be given"),
        (b'[[xfail]]\nclause = "G01"\nreason = " "\nissue = "y"\n', "reason must say something"),
        (b'[claims.storage]\nmember_losses_survived = "one"\n', "'one' is not a quantity"),
        (b'[claims.storage]\nsimulable = "yes"\n', "neither true nor false"),
        (b'[claims.storage]\nflush_level = "diskk"\n', "flush_level"),
        (b"xfail = 3\n", "xfail"),
        (b"\xff\xfe\x00", "not UTF-8 at byte 0; save it as UTF-8 text"),
        (b"#" * 2_000_000, "larger than 1048576 bytes"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b'[claims]\n"a\\u001b[2J" = 1\n', "claims.a\\x1b[2J: unknown key"),
    ],
)
def test_a_broken_claims_file_is_one_line_with_file_and_remedy(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "claims.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        load_claims(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: ")
    assert told in text
    assert text.isprintable()


@pytest.mark.parametrize("name", [".", "missing.toml"])
def test_claims_that_are_no_file_are_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_claims(tmp_path / name)


def test_a_known_failure_counts_as_known_and_one_that_passes_is_told() -> None:
    claims = Claims(xfail=(KnownFailure(clause="G01", cell="T0/*/kill", reason="slow", issue="#7"),))
    assert claims.judge("G01", "T0/mine/tcp/sync/kill", Status.FAIL) is Status.XFAIL
    assert claims.judge("G01", "T0/mine/tcp/sync/kill", Status.PASS) is Status.XPASS
    assert claims.judge("G01", "T0/mine/tcp/sync/none", Status.FAIL) is Status.FAIL
    assert claims.judge("G02", "T0/mine/tcp/sync/kill", Status.FAIL) is Status.FAIL
    assert claims.judge("G01", "T0/mine/tcp/sync/kill", Status.ERROR) is Status.ERROR


def test_what_is_claimed_and_not_declared_fails(tmp_path: Path) -> None:
    (tmp_path / "claims.toml").write_text('[claims.storage]\nflush_level = "disk"\n')
    claims = load_claims(tmp_path / "claims.toml")
    check = CHECKS["what_is_claimed_is_declared"]
    result = check_part(check, "memory://", claims=claims)
    assert result.status is Status.FAIL
    assert result.text == "claimed flush_level = 'disk', the part declares 'memory'"
    assert check_part(check, "mmap://{dir}", claims=claims).status is Status.PASS
    assert check_part(check, "memory://").status is Status.NOT_CLAIMED


def test_what_is_claimed_of_one_kind_of_part_accuses_no_other(tmp_path: Path) -> None:
    tables = "[claims.storage]\nsimulable = false\n[claims.transport]\nhalf_close = true\n"
    (tmp_path / "claims.toml").write_text(tables)
    claims = load_claims(tmp_path / "claims.toml")
    storage, transport = CHECKS["what_is_claimed_is_declared"], CHECKS["what_is_claimed_of_a_transport_is_declared"]
    assert check_part(transport, "tcp", claims=claims).status is Status.PASS
    assert check_part(storage, "mmap://{dir}", claims=claims).text.startswith("claimed simulable = False")
    (tmp_path / "claims.toml").write_text("[claims.storage]\nsimulable = true\n")
    assert check_part(transport, "tcp", claims=load_claims(tmp_path / "claims.toml")).status is Status.NOT_CLAIMED


@pytest.mark.parametrize("kind", ["storage", "transport"])
def test_a_scaffolds_readme_runs_the_suite_with_the_claims_file_beside_it(kind: str, tmp_path: Path) -> None:
    ran = mqcore("new", kind, "mine", "--to", str(tmp_path), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    folder = tmp_path / "mqcore-mine"
    lines = [line for line in (folder / "README.md").read_text().splitlines() if "conformance run" in line]
    assert lines
    assert all("--claims conformance.toml" in line for line in lines)
    load_claims(folder / "conformance.toml")


def test_settings_are_those_of_the_nearest_folder_that_has_the_table(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "tests").mkdir(parents=True)
    settings(tmp_path / "a", 'storage = ["memory://", "null://"]', "seeds = 3")
    (tmp_path / "a" / "b" / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert find_settings(tmp_path / "a" / "b" / "tests") == tmp_path / "a"
    assert find_settings(tmp_path) is None
    assert read_settings(tmp_path / "a").storage == ("memory://", "null://")
    assert read_settings(tmp_path).seeds == 2
