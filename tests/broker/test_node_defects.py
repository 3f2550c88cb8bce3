"""A part that raises what it must not: the request that met it is answered, and nothing else notices."""

from __future__ import annotations

from typing import Any

import pytest

from mqcore.protocol import Code, Failed, Produced, Result

pytestmark = pytest.mark.quick


def test_a_storage_that_raises_from_open_fails_the_request_and_not_the_connection(
    open_setup: Any, run_virtual: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        notices: list[Any] = []
        async with open_setup(report=notices.append) as setup, setup.client() as client:
            good, bad = await client.create("good"), await client.create("bad")
            backend = setup.broker.store.backend
            whole = backend.open_log

            async def broken(name: str) -> Any:
                if name.startswith(bad.hex()):
                    raise ZeroDivisionError("a plug-in's own defect")
                return await whole(name)

            monkeypatch.setattr(backend, "open_log", broken)
            refused = await client.produce(bad, [b"x"])
            assert isinstance(refused, Failed)
            assert refused.code == Code.STORAGE_STOPPED
            assert "ZeroDivisionError" in refused.text
            described = await client.call("topic.describe", name="bad")
            assert isinstance(described, Failed)
            assert isinstance(await client.produce(good, [b"x"]), Produced)
            assert isinstance(await client.call("topic.list"), Result)
            assert {notice.kind for notice in notices} == {"defect"}

    run_virtual(main)
