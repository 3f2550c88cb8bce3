"""docs/transport.md: its transport carries a broker and keeps the transport contract."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mqcore.abc import Transport
from mqcore.errors import ConfigurationError
from mqcore.registry import check, create_transport, register, unregister

PAGE = "transport.md"
CONTRACT = Path(__file__).parents[1] / "transports" / "test_transport_contract.py"
pytestmark = [pytest.mark.needs("source-tree"), pytest.mark.needs("linux")]


@functools.cache
def contract() -> ModuleType:
    """The project's own tests of the transport contract, as a module."""
    spec = importlib.util.spec_from_file_location("transport_contract_for_pages", CONTRACT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contract_tests() -> list[str]:
    """Names of its tests that need nothing but a wire."""
    return [
        name
        for name, value in vars(contract()).items()
        if name.startswith("test_") and set(inspect.signature(value).parameters) == {"open_wire"}
    ]


@pytest.fixture
def _abstract_transport(pages: Any) -> Iterator[None]:
    part: type[Transport] = pages.module(PAGE, "abstract_transport").AbstractTransport
    register("transports", "abstract", part)
    yield
    unregister("transports", "abstract")


def test_the_broker_of_the_page_runs(pages: Any, tmp_path: Path) -> None:
    for name in ("abstract_transport.py", "abstract_example.py"):
        (tmp_path / name).write_text(pages.code(PAGE, name))
    command = [sys.executable, "abstract_example.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "topic='lines', partition=0, offset=0" in result.stdout


@pytest.mark.usefixtures("_abstract_transport")
@pytest.mark.parametrize("name", contract_tests() if CONTRACT.exists() else [])
def test_the_transport_of_the_page_keeps_the_transport_contract(name: str, tmp_path: Path) -> None:
    url = "abstract://" + str(tmp_path)[-100:]

    @asynccontextmanager
    async def open_wire() -> AsyncIterator[Any]:
        transport = create_transport(url)
        async with await transport.listen() as listener:
            async with aclosing(contract().Wire(transport, listener, create_transport(str(listener.url)))) as wire:
                yield wire

    getattr(contract(), name)(open_wire)


@pytest.mark.usefixtures("_abstract_transport")
def test_it_is_checked_like_any_part_and_refuses_a_name_that_cannot_be() -> None:
    assert check("transports", "abstract", url="abstract://x").problem == ""
    for name in ("", "x" * 108):
        with pytest.raises(ConfigurationError, match="1 to 107 bytes"):
            create_transport(f"abstract://{name}")
