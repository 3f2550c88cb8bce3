"""The suite's contract checks on mqcore's own authenticators; one with a mistake in it is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqcore.cli import main
from mqcore.registry import find, register, unregister
from mqcore_conformance.contract import CHECKS, check_part, checks_of
from mqcore_conformance.report import read_records
from mqcore_conformance.saboteurs import AUTHENTICATOR_SABOTEURS
from mqcore_conformance.saboteurs.selftest import run_selftest
from mqcore_conformance.verdicts import Status

pytest.importorskip("scramp")
NAMES = [one.name for one in checks_of("authenticator")]
OF_LINKS = {
    "an_unknown_authenticator_option_is_refused_by_name",
    "what_a_link_says_is_believed_and_nothing_else",
    "credentials_of_another_mechanism_give_no_client",
}
OF_CHALLENGES = {
    "an_unknown_name_is_refused_as_a_wrong_secret_is",
    "an_unknown_name_costs_what_a_wrong_secret_costs",
    "a_login_that_was_recorded_is_worthless",
}


@pytest.mark.parametrize(
    ("part", "name"),
    [(part, name) for part in ("scram-sha-256", "token") for name in NAMES]
    + [(part, name) for part in ("tls", "unix") for name in sorted({*OF_LINKS, "a_wrong_secret_is_refused"})],
)
def test_the_authenticator_check_passes_or_is_about_what_it_has_not(part: str, name: str) -> None:
    result = check_part(CHECKS[name], part)
    is_claimed = name in OF_LINKS or part == "scram-sha-256" or (part == "token" and name not in OF_CHALLENGES)
    assert result.status is (Status.PASS if is_claimed else Status.NOT_CLAIMED), result.text


@pytest.mark.parametrize("name", [one.name for one in AUTHENTICATOR_SABOTEURS])
def test_the_check_fails_for_it(name: str) -> None:
    (kill,) = run_selftest([name])
    assert (kill.verdict, kill.stray) == ("killed", ()), kill


def test_every_check_kills_a_saboteur_of_its_clause() -> None:
    for one in AUTHENTICATOR_SABOTEURS:
        assert CHECKS[one.check].kind == CHECKS[one.green].kind == "authenticator"
        assert CHECKS[one.check].clause == one.clause
    planted = {one.check for one in AUTHENTICATOR_SABOTEURS}
    # that one is killed by ``unknown-option-taken``, through the same function of the registry
    assert set(NAMES) - planted == {"an_unknown_authenticator_option_is_refused_by_name"}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["conformance", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_line_checks_authenticators_by_name_and_in_no_cell(tmp_path: Path) -> None:
    wanted = ("--authenticator", "token", "--cell", "a_wrong_secret_is_refused", "--to", str(tmp_path))
    assert run("run", *wanted) == 0
    kinds = [(record["kind"], record.get("part"), record.get("status")) for record in read_records(tmp_path)]
    assert kinds[1:] == [("check", "authenticator token", "PASS")]


STRANGER = """\
from mqcore.abc import Credentials, Secret
from mqcore_conformance.contract import LoginControl

class Users(LoginControl):
    scheme = "stranger" if GOOD else "liar"

    def options(self):
        (self.folder / "t").touch(mode=0o600)
        (self.folder / "t").write_text("ada 0123456789abcdef\\nbob fedcba9876543210\\n")
        return {"tokens": str(self.folder / "t")}

    def credentials(self):
        return {
            "token:ada": Credentials(token=Secret("0123456789abcdef")),
            "token:bob": Credentials(token=Secret("fedcba9876543210" if GOOD else "fedcba9876543211")),
        }
"""


@pytest.fixture
def _stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_of_a_stranger.py").write_text("GOOD = True\n" + STRANGER)
    (tmp_path / "users_that_are_wrong.py").write_text("GOOD = False\n" + STRANGER)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_stranger")
def test_a_stranger_s_is_checked_with_the_users_that_its_author_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("stranger", "liar"):
        register("authenticators", name, find("authenticators", "token"))
    try:
        wanted = ("run", "--cell", "right_secret", "--to", str(tmp_path / "report"), "--authenticator")
        assert run(*wanted, "stranger") == 2
        assert "MODULE:CLASS (LoginControl)" in capsys.readouterr().err
        assert run(*wanted, "stranger", "--server", "users_of_a_stranger:Users") == 0
        wanted = ("run", "--cell", "right_secret", "--to", str(tmp_path / "red"), "--authenticator")
        assert run(*wanted, "liar", "--server", "users_that_are_wrong:Users") == 1
        (repro,) = (tmp_path / "red" / "repro").iterdir()
        assert "token:bob is refused with the right secret" in (repro / "failure.txt").read_text()
        assert run("replay", str(repro)) == 1
    finally:
        for name in ("stranger", "liar"):
            unregister("authenticators", name)
