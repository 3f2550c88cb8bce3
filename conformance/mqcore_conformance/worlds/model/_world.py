"""The world of a simulation, whole: machine, faults that strike it, and the checks that only a model can make."""

from __future__ import annotations

import trio

from mqcore.guarantees import Level
from mqcore_conformance.worlds.model._faults import DEATHS, ModelInjector
from mqcore_conformance.worlds.model._machine import ModelMachine
from mqcore_conformance.worlds.model._operator import has_stopped_log, operate
from mqcore_conformance.worlds.model._recovery import check_recovery
from mqcore_conformance.worlds.model._released import check_released

__all__ = ["ModelWorld"]


class ModelWorld(ModelMachine):
    """See ``World``."""

    _injector: ModelInjector

    async def inject(self, nursery: trio.Nursery) -> None:
        self._injector = ModelInjector(self, nursery)
        self._injector.arm()

    async def heal(self) -> None:
        await self._injector.heal()

    async def end_life(self, kind: str) -> None:
        life = self.life
        if kind in DEATHS and self.kill(kind):
            await self.ended(life)
        elif kind == "stop" and self.broker is not None:
            self.stop()
            await self.ended(life)

    def has_stopped_log(self) -> bool:
        return has_stopped_log(self)

    async def operate(self) -> None:
        await operate(self)

    async def check_peers(self) -> None:
        await self._injector.peers.gone()

    async def check_released(self) -> None:
        await check_released(self)

    async def check_recovery(self) -> None:
        """See ``World``. What keeps nothing over a crash is not asked."""
        capabilities = self.capabilities()
        if max(capabilities.append_level, capabilities.flush_level) >= Level.PAGE_CACHE:
            await check_recovery(self)
