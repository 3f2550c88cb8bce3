"""docs/authenticator.md: its authenticator is the one that ``mqcore new`` writes, and keeps the contract."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from mqcore.abc import Authenticator
from mqcore.registry import installed, register, unregister
from mqcore_conformance.contract import CHECKS, LoginControl, check_part, checks_of, use_server
from mqcore_conformance.verdicts import Status

PAGE = "authenticator.md"
WORDS = {"@name@": "badge", "@module@": "mqcore_badge", "@Class@": "Badge"}
pytestmark = pytest.mark.needs("source-tree")


def template(pages: Any, name: str) -> str:
    text = (pages.root / "mqcore" / "cli" / "templates" / "authenticator" / f"{name}.txt").read_text()
    for word, value in WORDS.items():
        text = text.replace(word, value)
    return str(text)


@pytest.fixture(autouse=True)
def _badge(pages: Any) -> Iterator[None]:
    options = template(pages, "_config.py")
    code = pages.code(PAGE, "_authenticator.py").replace("from mqcore_badge._config import BadgeOptions\n", "")
    found: dict[str, Any] = {}
    # One module of both files, as each begins with an import from the future.
    exec(compile(options, "_config.py", "exec"), found)
    exec(compile(code, f"{PAGE}:_authenticator.py", "exec"), found)
    logins: dict[str, Any] = {}
    exec(compile(pages.code(PAGE, "logins.py"), f"{PAGE}:logins.py", "exec"), logins)
    part: type[Authenticator] = found["BadgeAuthenticator"]
    control: type[LoginControl] = logins["BadgeLogins"]
    register("authenticators", "badge", part)
    use_server(control)
    yield
    unregister("authenticators", "badge")


@pytest.mark.parametrize("name", ["_authenticator.py", "logins.py"])
def test_the_page_shows_what_mqcore_new_writes(pages: Any, name: str) -> None:
    assert pages.code(PAGE, name) == template(pages, name)


@pytest.mark.parametrize("name", [one.name for one in checks_of("authenticator")])
def test_the_authenticator_of_the_page_keeps_the_contract(name: str) -> None:
    result = check_part(CHECKS[name], "badge")
    assert result.status is Status.PASS, result.text


def test_the_page_names_every_authenticator(pages: Any) -> None:
    listed = pages.text(PAGE).partition("Ready-made ones are")[2].partition("This page")[0]
    own = {item.name for item in installed("authenticators") if item.distribution == "mqcore"}
    assert set(re.findall(r"`([\w-]+)`", listed)) == own
