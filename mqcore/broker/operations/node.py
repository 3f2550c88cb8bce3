"""Operations on the running node: its facts, and what its parts do on request."""

from __future__ import annotations

from mqcore.broker.operations._scope import AdminScope
from mqcore.errors import RejectedError
from mqcore.operations import DescribeBroker, Operate, ReloadBroker, ReloadedBroker
from mqcore.protocol import Code

__all__ = ["broker_status", "operate", "reload_broker"]


async def broker_status(scope: AdminScope, request: DescribeBroker) -> dict[str, object]:
    """Return facts of the running broker."""
    return scope.status()


async def operate(scope: AdminScope, request: Operate) -> object:
    """Pass an operation on to the part that it is for; the core never names a part."""
    return await scope.operate(request.part, request.operation, request.arguments)


async def reload_broker(scope: AdminScope, request: ReloadBroker) -> ReloadedBroker:
    """Have the configuration file read again; with an error in it nothing changes, and that is raised."""
    if scope.reload is None:
        text = "this broker was started without a configuration file: start it with mqcore serve --config FILE"
        raise RejectedError(text, code=Code.INVALID_REQUEST, name=Code.INVALID_REQUEST.label)
    return await scope.reload()
