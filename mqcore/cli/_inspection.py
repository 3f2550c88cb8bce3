"""What is to be said of a configuration besides its promises: files that are of no use, settings without effect.

For the verbs that look at a configuration before there is a broker. Listens nowhere, and keeps nothing that it reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from mqcore.config import BrokerConfig

__all__ = ["Inspection", "inspect"]


@attrs.frozen(kw_only=True)
class Inspection:
    """``problems``: with them no broker starts, or no peer comes in. ``notices``: it starts, and says so each time."""

    problems: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def inspect(config: BrokerConfig) -> Inspection:
    """Compose who may connect to a broker of ``config``, and read the files that it names.

    Raises ``ConfigurationError``, ``PluginError`` for what cannot be composed.
    """
    from mqcore.abc import Notice, TransportContext
    from mqcore.broker import file_problems, open_key_notices, remarks_on
    from mqcore.errors import ConfigurationError
    from mqcore.ports import system_ports
    from mqcore.registry import create_transport

    context = TransportContext(tls=config.tls)
    listeners = [create_transport(each.url, context, each.options) for each in config.listen]
    now_s = system_ports().clock.wall_ms() / 1000
    problems: list[str] = []
    remarks: list[Notice] = open_key_notices(listeners)
    try:
        remarks += remarks_on(config, listeners, now_s)
    except ConfigurationError as error:
        problems.append(str(error))
    problems += file_problems(config, listeners, now_s)
    texts = dict.fromkeys(each.text for each in remarks)
    return Inspection(problems=tuple(problems), notices=tuple(text for text in texts if text not in problems))
