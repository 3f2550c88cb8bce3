"""The world of T1, whole: broker processes, the proxy in front of them, and the faults that strike them."""

from __future__ import annotations

import trio

from mqcore.testing import seeded
from mqcore_conformance.plans import PROXY_FAMILIES
from mqcore_conformance.worlds._addresses import address
from mqcore_conformance.worlds.processes._children import BrokerProcesses
from mqcore_conformance.worlds.processes._injector import ProcessInjector
from mqcore_conformance.worlds.processes._proxy import Proxy

__all__ = ["ProcessWorld"]


class ProcessWorld(BrokerProcesses):
    """See ``World``."""

    _injector: ProcessInjector

    async def inject(self, nursery: trio.Nursery) -> None:
        """See ``World``. Where there is a proxy, clients reach the broker through it from now on."""
        proxy = None
        if self.plan.family in PROXY_FAMILIES:
            place = address(self.plan.transport, self.folder, "proxy")
            proxy = Proxy(place, self.url, seeded(self.plan.seed, "proxy"), self._proxy_struck)
            await nursery.start(proxy.run)
            self.url = proxy.url
        self._injector = ProcessInjector(self, proxy)
        nursery.start_soon(self._injector.run)

    def _proxy_struck(self, kind: str, target: str) -> None:
        self.witnesses[kind] += 1
        self.witnesses[f"{kind}:{target}"] += 1

    @property
    def is_struck(self) -> bool:
        return self._injector.is_done

    async def heal(self) -> None:
        await self._injector.heal()

    async def end_life(self, kind: str) -> None:
        await self._injector.end(kind)
