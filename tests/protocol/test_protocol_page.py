"""docs/protocol.md says what the code does: the state table, the codes and the operations are compared."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from mqcore.broker.operations import HANDLERS
from mqcore.operations import REQUESTS
from mqcore.protocol import FOLLOW_TRANSITIONS, TRANSITIONS, Code, FollowKind, FollowRole, Kind, Role, State

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
pytestmark = pytest.mark.needs("source-tree")


def rows(after: str) -> list[list[str]]:
    text = PAGE.read_text().split(after, 1)[1]
    found = []
    for line in text.splitlines():
        if line.startswith("|"):
            found.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
        elif found:
            break
    return found[2:]


def states_of(cell: str) -> list[State]:
    """The states of a cell: ``a, b``, ``any`` or ``any but a, b``."""
    named = {State(name) for name in cell.removeprefix("any but ").split(", ") if name != "any"}
    return [state for state in State if (state in named) is not cell.startswith("any")]


def test_the_state_table_on_the_page_is_the_one_in_the_code() -> None:
    told = {
        (Role(role), state, Kind[kind.upper()], State(target))
        for role, states, kinds, target in rows("The broker's welcome opens the\nclient's side too.")
        for state in states_of(states)
        for kind in kinds.split(", ")
    }
    assert told == {(*key, target) for key, target in TRANSITIONS.items()}


def test_the_state_table_of_a_follower_s_stream_on_the_page_is_the_one_in_the_code() -> None:
    told = {
        (FollowRole(role), state, FollowKind[kind.upper().replace("-", "_")], State(target))
        for role, states, kinds, target in rows("`followed` opens the follower's side too.")
        for state in states_of(states)
        for kind in kinds.split(", ")
    }
    assert told == {(*key, target) for key, target in FOLLOW_TRANSITIONS.items()}


def test_every_kind_of_a_follower_s_stream_is_on_the_page_with_its_number() -> None:
    told = {(int(row[0]), row[1].upper().replace("-", "_")) for row in rows("only what changed travels.")}
    assert told == {(kind.value, kind.name) for kind in FollowKind}


def test_every_code_is_on_the_page() -> None:
    told = {(int(number), name, bool(retry)) for number, name, retry in rows("<!-- codes -->")}
    assert told == {(code.value, code.label, code.retryable) for code in Code}


def test_every_kind_is_on_the_page_with_its_number() -> None:
    told = {(int(row[0]), row[1].upper()) for row in rows("refused with\n`frame-too-large`")}
    assert told == {(kind.value, kind.name) for kind in Kind}


def test_every_operation_is_on_the_page() -> None:
    told = set(re.findall(r"^\| `([a-z.]+)`", PAGE.read_text().split("## Administrative operations")[1], re.M))
    assert told == set(HANDLERS) == set(REQUESTS)


def test_every_argument_of_an_operation_is_on_the_page() -> None:
    for name, arguments, _ in rows("until there is none.\n"):
        told = set(re.findall(r"(?:^|`)([a-z_]+)(?=`|$)", arguments)) - {"null"}
        assert told == {field.name for field in attrs.fields(REQUESTS[name])}, name
