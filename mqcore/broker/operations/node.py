"""Operations on the running node: its facts, and what its parts do on request."""

from __future__ import annotations

from mqcore.broker.operations._scope import AdminScope
from mqcore.operations import DescribeBroker, Operate

__all__ = ["broker_status", "operate"]


async def broker_status(scope: AdminScope, request: DescribeBroker) -> dict[str, object]:
    """Return facts of the running broker."""
    return scope.status()


async def operate(scope: AdminScope, request: Operate) -> object:
    """Pass an operation on to the part that it is for; the core never names a part."""
    return await scope.operate(request.part, request.operation, request.arguments)
