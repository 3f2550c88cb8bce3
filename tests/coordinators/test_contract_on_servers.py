"""The suite's contract checks on the real servers: those that need no server of their own.

The others kill, freeze and restore one each; ``.ci/run`` runs them all, alone and on ensembles of three.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from coordinator_parts import Place

from mqcore_conformance.contract import CHECKS, check_part, checks_of
from mqcore_conformance.verdicts import Status

pytestmark = pytest.mark.slow

AT_ONCE = 3
"""Each check runs in a process of its own and mostly waits."""
OF_A_SERVER = "mqcore_conformance.contract._coordinator_servers"
LONG = {"never_two_primaries_at_once"}


def test_every_check_passes(place: Place) -> None:
    names = [
        check.name
        for check in checks_of("coordinator")
        if check.function.__module__ != OF_A_SERVER and check.name not in LONG
    ]
    assert len(names) > 20
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda name: check_part(CHECKS[name], place.url), names))
    failed = [
        f"{name}: {result.text}"
        for name, result in zip(names, results, strict=True)
        if result.status is not Status.PASS
    ]
    assert not failed, "\n".join(failed)
