"""The pytest plug-in of mqcore: fixtures for tests that run on virtual time, alone or beside an open broker.

pytest loads this module in every run of everybody who installs mqcore, so it imports the standard library and pytest
only until a fixture of it is used. ``mqcore.testing`` documents the fixtures; the work is done there.

- ``mqcore_run``: the function ``mqcore.testing.run_simulation``, for a test that is a plain function.
- ``mqcore_broker``: an open broker on memory storage that listens on no port, for a test that is ``async def``; such a
  test runs in Trio on virtual time, inside the broker's block. ``@pytest.mark.mqcore_broker(seed=3, flush="none")``
  gives the seed and arguments of ``mqcore.open_broker``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["mqcore_broker", "mqcore_run"]

MARKER = "mqcore_broker"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", f"{MARKER}(seed=0, **arguments): seed and arguments of the broker that the fixture {MARKER} opens"
    )


@pytest.fixture
def mqcore_run() -> Callable[..., Any]:
    """``mqcore.testing.run_simulation``: runs an async function on virtual time, everything random from ``seed``."""
    from mqcore.testing import run_simulation

    return run_simulation


@pytest.fixture
def mqcore_broker(request: pytest.FixtureRequest) -> Any:
    """An open in-process broker on memory storage; see the module. For tests that are ``async def``."""
    if not inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        pytest.fail(f"a test that uses {MARKER} is 'async def', without another async plug-in's marker", pytrace=False)
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that uses ``mqcore_broker`` inside the broker's block."""
    if MARKER not in pyfuncitem.fixturenames or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    from mqcore.testing import run_beside_broker

    marker = pyfuncitem.get_closest_marker(MARKER)
    options = dict(marker.kwargs) if marker is not None else {}
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: value for name, value in pyfuncitem.funcargs.items() if name in names and name != MARKER}

    async def test(broker: object) -> None:
        if MARKER in names:
            arguments[MARKER] = broker
        await pyfuncitem.obj(**arguments)

    run_beside_broker(test, **options)
    return True
