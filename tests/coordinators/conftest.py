"""One server of each kind for a module of tests, and for each test a name on it that no other test has used."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from coordinator_parts import SCHEMES, SERVERS, Place, each_of

from mqcore_conformance.servers import ServerProcess


@pytest.fixture(scope="module", params=each_of(*SCHEMES))
def single(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """One server of each kind. A test that stops it starts it again."""
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture
def place(single: ServerProcess) -> Place:
    """A fresh name on it."""
    return Place(single.name, [single])
