"""What a child returns of a part comes back as it was, and nothing that it may write runs in the parent."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections import Counter
from typing import Any

import attrs
import pytest

from mqcore.abc import Capabilities, CoordinatorCapabilities, TransportCapabilities
from mqcore.guarantees import Level
from mqcore_conformance.cells import CellResult, run_cell
from mqcore_conformance.children import Outcome, run_apart
from mqcore_conformance.children._child import Child
from mqcore_conformance.children._codec import HandoverError, from_json, to_json
from mqcore_conformance.contract import PartFacts
from mqcore_conformance.saboteurs import SABOTEURS
from mqcore_conformance.verdicts import Status, Violation

pytestmark = pytest.mark.quick


@attrs.define
class Values:
    statuses: dict[str, Status]
    sizes: tuple[int, ...]
    data: bytearray
    counter: Counter[str]
    plain: Any


def test_values_of_every_kind_come_back_as_they_were() -> None:
    value = Values(
        statuses={"G01": Status.PASS},
        sizes=(1, 2),
        data=bytearray(b"\x00\xff"),
        counter=Counter({"kill": 3}),
        plain=["lone \udc80, line\nend", 2.5, None, True, float("inf"), {"event": "data"}],
    )
    assert from_json(to_json(value, Values), Values) == value


@pytest.mark.parametrize(
    "capabilities",
    [
        Capabilities(append_level=Level.PAGE_CACHE, flush_level=Level.DISK),
        TransportCapabilities(streams_max=3),
        CoordinatorCapabilities(),
        None,
    ],
)
def test_what_any_kind_of_part_declares_comes_back(capabilities: Any) -> None:
    facts = PartFacts(capabilities=capabilities)
    assert from_json(to_json(facts, PartFacts), PartFacts) == facts


def test_a_failed_cell_with_its_history_comes_back_as_it_was() -> None:
    saboteur = SABOTEURS[0]
    result = run_cell(saboteur.cell, range(3), sabotage=saboteur.make, stop_at_first=True, extra_seeds_max=0)
    assert result.failures
    assert from_json(to_json(result, CellResult), CellResult) == result


@pytest.mark.parametrize("value", [print, object(), Level, os, [lambda: None], {"a": Exception("x")}])
def test_what_is_no_data_is_refused_where_it_is_written(value: object) -> None:
    with pytest.raises(HandoverError):
        to_json(value, Any)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("BEST", Status),
        ({"clause": "G01", "anomaly": "lost write", "text": "", "unknown": 1}, Violation),
        ({"clause": "G01"}, Violation),
        ({"capabilities": {"_type": "Popen", "args": ["true"]}}, PartFacts),
        ([1], tuple[int, str]),
        ("text", dict[str, int]),
    ],
)
def test_a_text_that_is_not_of_the_type_is_refused(data: object, kind: Any) -> None:
    with pytest.raises(HandoverError):
        from_json(json.dumps(data).encode(), kind)


class Bomb:
    """Runs ``os._exit(77)`` in any process that unpickles it."""

    def __reduce__(self) -> object:
        return os._exit, (77,)


@pytest.mark.parametrize(
    "data",
    [pickle.dumps(Bomb()), b"\xff" * 100, b"[" * 50_000, b"1", b'"forged"', to_json({"valu": 1}, Any)],
)
def test_bytes_of_the_part_s_own_on_the_pipe_are_garbage_and_run_nothing(data: bytes) -> None:
    def forge() -> None:
        assert Child.current is not None
        os.write(Child.current.writer, struct.pack("!cQ", b"r", len(data)) + data)
        os._exit(0)

    outcome = run_apart(forge, seconds_max=10.0)
    assert outcome == Outcome(problem="its process wrote garbage where its result belongs")
