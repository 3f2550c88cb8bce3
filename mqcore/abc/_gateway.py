"""Contract of a gateway: another protocol in front of a running broker, which it may look at and not touch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import attrs
import trio

from mqcore.abc._context import Notice, ignore_notice
from mqcore.url import Url

__all__ = ["BrokerView", "Gateway", "GatewayContext", "Metric", "MetricFamily"]


@attrs.frozen
class Metric:
    """What a measured quantity is called: ``name`` ends in its unit, a counter's in ``_total`` besides.

    ``help``: one sentence. ``labels``: names of what tells its values apart.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


class MetricFamily(NamedTuple):
    """A metric and its values now, each with one text per label. ``samples`` may be read while the broker goes on."""

    metric: Metric
    samples: Iterable[tuple[tuple[str, ...], int | float]]


class BrokerView(ABC):
    """A running broker, looked at from outside."""

    @abstractmethod
    def status(self) -> Mapping[str, object]:
        """Facts as JSON values."""

    @abstractmethod
    def failures(self) -> Sequence[str]:
        """What has stopped for good and only a restart may bring back; empty while the broker is healthy."""

    @abstractmethod
    def waits_for(self) -> str:
        """Why it cannot be used now, in a sentence; empty when it is ready."""

    @abstractmethod
    def metrics(self) -> Iterable[MetricFamily]:
        """All metrics. Nothing is counted for them per message: they are read off what the broker knows anyway."""


@attrs.frozen(kw_only=True)
class GatewayContext:
    """What a gateway is given when it is composed. ``report`` takes what an operator should know."""

    view: BrokerView
    report: Callable[[Notice], None] = ignore_notice


class Gateway(ABC):
    """A gateway, picked by the scheme of a URL (entry-point group ``mqcore.gateways``). The constructor does no I/O."""

    options_class: ClassVar[type[Any]]

    def __init__(self, url: Url, options: Any, context: GatewayContext) -> None:
        self.url = url
        self.options = options
        self.context = context

    @abstractmethod
    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; ``task_status`` gets the URL that it is reached at.

        Raises ``TransportError`` when it cannot listen. What a peer sends is answered or ends its connection, and is
        never raised.
        """
