"""T0 with a transport that the suite has never heard of: what takes its sockets from Trio meets the model network."""

from __future__ import annotations

import pytest

from mqcore.abc import TransportCapabilities
from mqcore.registry import find, register, unregister
from mqcore_conformance.cells import Cell, run_cell
from mqcore_conformance.running import Request, plan_cells
from mqcore_conformance.verdicts import Status
from mqcore_conformance.worlds.model import model_url


@pytest.fixture
def stranger():
    """``stranger://HOST:PORT``: TCP by another name."""
    register("transports", "stranger", type("StrangerTransport", (find("transports", "tcp"),), {}))
    yield "stranger"
    unregister("transports", "stranger")


@pytest.fixture
def hermit():
    """A transport that says that no model can stand in for its sockets."""
    capabilities = property(lambda self: TransportCapabilities())
    hermit = type("HermitTransport", (find("transports", "tcp"),), {"capabilities": capabilities})
    register("transports", "hermit", hermit)
    yield "hermit"
    unregister("transports", "hermit")


def test_a_strangers_transport_meets_network_faults_and_power_cuts(stranger):
    assert model_url(stranger) == "stranger://127.0.0.1:7400"
    for family in ("network", "power-cut"):
        cell = Cell(tier="T0", storage="mmap://{dir}", transport=stranger, flush="sync", family=family)
        result = run_cell(cell, range(2))
        assert result.status is Status.PASS, result.failures or result.reason
        assert result.statuses["G01"] is Status.PASS
        assert result.witnesses["acknowledged"] > 0


def test_a_transport_that_does_not_claim_to_be_simulable_is_not_run_in_t0(hermit):
    url = f"{hermit}://127.0.0.1:0"
    request = Request(storages=("mmap://{dir}",), transports=(url,), flushes=("sync",), tiers=("T0",))
    reasons = {why for cell, why in plan_cells(request)}
    why = "its sockets are not Trio's, so that no model can stand in; T1 runs it over real ones (--tier T1)"
    assert reasons == {why}
