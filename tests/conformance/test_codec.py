"""What a child tells of a part comes back as it was, and nothing that it may write runs in the parent."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections import Counter

import pytest

from mqcore.abc import Capabilities
from mqcore.guarantees import Level
from mqcore_conformance.cells import run_cell
from mqcore_conformance.children import HandoverError, from_json, run_apart, to_json
from mqcore_conformance.children import _isolation as isolation
from mqcore_conformance.saboteurs import SABOTEURS
from mqcore_conformance.verdicts import Status

pytestmark = pytest.mark.quick


def test_values_of_every_kind_come_back_as_they_were() -> None:
    value = {
        "statuses": {"G01": Status.PASS, 7: (1, 2.5, None, True, [b"\x00\xff", bytearray(b"x")])},
        "sets": (set(), {3}, frozenset({"a"})),
        "counter": Counter({"kill": 3}),
        "capabilities": Capabilities(append_level=Level.PAGE_CACHE, flush_level=Level.DISK),
        "text": "lone \udc80, line\nend",
        "no float": float("inf"),
        "attrs": {"attrs": ["dict keys", "are data"]},
    }
    found = from_json(to_json(value))
    assert found == value
    assert [type(one) for one in found.values()] == [type(one) for one in value.values()]


def test_a_failed_cell_with_its_history_comes_back_as_it_was() -> None:
    saboteur = SABOTEURS[0]
    result = run_cell(saboteur.cell, range(3), sabotage=saboteur.make, stop_at_first=True, extra_seeds_max=0)
    assert result.failures
    assert from_json(to_json(result)) == result


@pytest.mark.parametrize(
    "value",
    [print, object(), Level, os, json.JSONDecoder(), run_apart, [lambda: None], {"a": {1: Exception("x")}}],
)
def test_what_is_no_value_is_refused_where_it_is_written(value: object) -> None:
    with pytest.raises(HandoverError):
        to_json(value)


@pytest.mark.parametrize(
    "data",
    [
        {"attrs": ["os:system", {"command": "true"}]},
        {"attrs": ["subprocess:Popen", {"args": ["true"]}]},
        {"attrs": ["mqcore_conformance.children._isolation:run_apart", {}]},
        {"attrs": ["mqcore_conformance.children._isolation:os", {}]},
        {"attrs": ["mqcore_conformance.children._isolation:attrs.evolve", {}]},
        {"attrs": ["mqcore_conformance.not_loaded:Class", {}]},
        {"attrs": ["mqcore_conformance.verdicts:Status", {}]},
        {"attrs": ["mqcore_conformance.verdicts:Violation", {"unknown": 1}]},
        {"enum": ["mqcore_conformance.verdicts:Status", "BEST"]},
        {"set": [[1]]},
        {"reduce": ["os.system", ["true"]]},
        {"dict": [], "tuple": []},
        {},
    ],
)
def test_a_text_that_names_anything_but_a_value_is_refused(data: object) -> None:
    with pytest.raises(HandoverError):
        from_json(json.dumps(data).encode())


class Bomb:
    """Runs ``os._exit(77)`` in whoever unpickles it."""

    def __reduce__(self) -> object:
        return os._exit, (77,)


@pytest.mark.parametrize(
    "data", [pickle.dumps(Bomb()), b"\xff" * 100, b"[" * 50_000, b"1", to_json("forged"), to_json({"value": 1})]
)
def test_bytes_of_the_part_s_own_on_the_pipe_are_garbage_and_run_nothing(data: bytes) -> None:
    def forge() -> None:
        child = isolation._Child.current
        assert child is not None
        os.write(child._writer, struct.pack("!cQ", b"r", len(data)) + data)
        os._exit(0)

    outcome = run_apart(forge, seconds_max=10.0)
    assert outcome.value is None
    assert outcome.problem == "its process wrote garbage where its result belongs"
