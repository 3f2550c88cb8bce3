"""SIGHUP and ``mqcore reload``: the file is read again and what can be applied is; an error in it changes nothing.

Signals that come while one is obeyed are one more, however many: a storm of them costs a reading at a time.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mqcore.abc import Notice
from mqcore.cli._build_options import compose, explanation_of
from mqcore.errors import ConfigurationError, MqcoreError, RefusedError

if TYPE_CHECKING:
    import trio

    from mqcore.broker import Node
    from mqcore.config import BrokerConfig
    from mqcore.operations import ReloadedBroker

__all__ = ["Reloader", "changes_in_words", "hangups_kept_off"]

Changes = Mapping[str, tuple[object, object]]
"""Keys of a configuration, each with its old and its new value."""


@contextlib.contextmanager
def hangups_kept_off() -> Iterator[None]:
    """Have SIGHUP end nothing within, neither a broker that starts nor one that has stopped listening to it."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)


class Reloader:
    """Reads ``file`` and ``flags`` again for a broker. ``say`` takes what was done, ``report`` what was refused."""

    def __init__(
        self,
        file: str,
        flags: dict[str, Any],
        say: Callable[[str, dict[str, object]], None],
        report: Callable[[Notice], None],
    ) -> None:
        self._file = file
        self._flags = flags
        self._say = say
        self._report = report
        self._one_at_a_time: trio.Lock | None = None

    def serve(self, broker: Node) -> None:
        """Have ``broker`` reload when a client asks it to."""
        import trio

        self._one_at_a_time = trio.Lock()
        broker.reload = partial(self._reload, broker)

    async def obey(self, broker: Node, signals: AsyncIterator[int]) -> None:
        """Reload at each of ``signals``, those since before the broker was there included, until cancelled."""
        async for _ in signals:  # those that came meanwhile are one
            with contextlib.suppress(ConfigurationError):  # it was reported
                await self._reload(broker)

    async def _reload(self, broker: Node) -> ReloadedBroker:
        """Read and apply, and return what was done. Raises ``ConfigurationError``: nothing changes."""
        import trio

        from mqcore.broker import apply_config
        from mqcore.operations import ReloadedBroker
        from mqcore.ports import system_ports

        assert self._one_at_a_time is not None
        async with self._one_at_a_time:
            try:
                # Files are read and every part is composed: in a thread, so that the broker goes on meanwhile.
                config = await trio.to_thread.run_sync(self._read)
            except MqcoreError as error:
                text = f"{self._file} is not applied, and nothing changes: {error}"
                self._report(Notice("reload-refused", text, {"file": self._file}))
                raise ConfigurationError(text) from error
            done = apply_config(broker, config, system_ports())
            broker.remark()
        words = changes_in_words(done.applied, done.waiting)
        event: dict[str, object] = {"event": "reloaded", "applied": dict(done.applied), "waiting": dict(done.waiting)}
        self._say(f"reloaded {self._file}: {words}", event)
        return ReloadedBroker(file=self._file, applied=_as_text(done.applied), waiting=_as_text(done.waiting))

    def _read(self) -> BrokerConfig:
        config = compose(self._file, self._flags)
        explanation = explanation_of(config)
        refusals = [*explanation.refusals, *explanation.unavailable]
        if refusals:
            raise RefusedError("; ".join(map(str, refusals)))
        return config


def changes_in_words(applied: Changes, waiting: Changes) -> str:
    """Return what became of a configuration, in one line."""
    words = [f"{key} is {new}" for key, (_, new) in applied.items()]
    words += [f"{key} waits for a restart" for key in waiting]
    return "; ".join(words) or "nothing has changed"


def _as_text(changes: Changes) -> dict[str, tuple[str, str]]:
    return {key: (str(old), str(new)) for key, (old, new) in changes.items()}
