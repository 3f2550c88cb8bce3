"""``mqcore serve``: a broker in the foreground. Says what it promises before it listens, stops in order on a signal."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from mqcore.cli._build_options import build_options, compose, explanation_of
from mqcore.cli.shell import (
    Verb,
    current,
    end,
    facts_in_words,
    line_queue,
    output_options,
    run_async,
)
from mqcore.errors import CommandNotPossibleError, RefusedError

if TYPE_CHECKING:
    from mqcore.abc import Notice
    from mqcore.broker import Node
    from mqcore.cli._output import LineQueue
    from mqcore.config import BrokerConfig
    from mqcore.guarantees import Explanation

__all__ = ["command"]

OPEN_FILES_MIN = 32
"""Descriptors without which a broker with a file storage does not get as far as to say what it lacks."""


@click.command(
    "serve",
    cls=Verb,
    examples=[
        "mqcore serve --storage mmap:///tmp/mq --flush sync",
        "mqcore serve --storage mmap:///tmp/mq --listen tcp://127.0.0.1:7400 --listen unix:///tmp/mq.sock",
        "mqcore serve --config broker.toml --survive power-cut",
    ],
)
@click.option("--config", "file", metavar="FILE", type=click.Path(dir_okay=False), help="TOML file; flags override it.")
@build_options
@output_options
def command(file: str | None, **flags: Any) -> None:
    """Run a broker until Ctrl-C or SIGTERM, which let it answer what is in flight; a second signal does not wait.

    It prints what an acknowledgement means and the URLs that clients connect to. A build that cannot keep what it
    promises is refused with the reason, and status 3.
    """
    config = compose(file, flags)
    explanation = explanation_of(config)
    refusals = [*explanation.refusals, *explanation.unavailable]
    if refusals:
        raise RefusedError("\n".join(f"refused: {refusal}" for refusal in refusals))
    _check_open_files()
    as_json = current().json
    with line_queue("stdout", as_json) as out, line_queue("stderr", as_json) as err:
        interrupted = run_async(_serve, config, explanation, _Voice(out, err, as_json))
    if interrupted:
        end(130)


def _check_open_files() -> None:
    from mqcore.ports import system_ports

    allowed = system_ports().files.open_files_max()
    if allowed < OPEN_FILES_MIN:
        raise CommandNotPossibleError(
            f"this process may open {allowed} files, and a broker needs {OPEN_FILES_MIN}: raise the limit (ulimit -n)"
        )


async def _check_addresses(config: BrokerConfig) -> None:
    """Listen everywhere for a moment: an address that is in use is told before a storage is made or recovered."""
    from contextlib import AsyncExitStack

    from mqcore.registry import create_transport

    async with AsyncExitStack() as listening:
        for listen in config.listen:
            await listening.enter_async_context(await create_transport(listen.url, table=listen.options).listen())


class _Voice:
    """What the broker says while it runs: events to standard output, notices to standard error.

    Neither is waited for: a supervisor that reads no more, or a full disk under the log, is no reason to stop.
    """

    def __init__(self, out: LineQueue, err: LineQueue, as_json: bool) -> None:
        self._out, self._err, self._as_json = out, err, as_json

    def say(self, text: str, record: dict[str, object]) -> None:
        """Report an event."""
        self._out.put(json.dumps(record, default=str, ensure_ascii=False) if self._as_json else text)

    def report(self, notice: Notice) -> None:
        """Report a notice of the running broker."""
        if self._as_json:
            facts = dict(notice.facts)
            line = json.dumps({"notice": notice.kind, "text": notice.text, "facts": facts}, default=str)
        else:
            words = facts_in_words(notice.facts)
            line = f"{notice.kind}: {notice.text}{f' ({words})' if words else ''}"
        self._err.put(line)


def _promises(explanation: Explanation) -> str:
    kept = {row.fault.label: row.text for table in explanation.tables[:1] for row in table.promises}
    return "; ".join(f"{fault}: {text}" for fault, text in kept.items())


FOR_PROGRAMS = frozenset({"url", "mount"})
"""Facts of a storage that the line for people says already, or that mean nothing to them."""


def _introduce(broker: Node, explanation: Explanation, voice: _Voice) -> None:
    status = broker.status()
    if not sys.platform.startswith("linux"):
        text = "this is not Linux: only the memory parts are supported"
        voice.say(text, {"event": "platform", "supported": False})
    storage = status["storage"]
    assert isinstance(storage, dict)
    facts = facts_in_words({key: value for key, value in storage.items() if key not in FOR_PROGRAMS})
    voice.say(
        f"storage {explanation.storage}{f' ({facts})' if facts else ''}; {explanation.flush_sentence}",
        {"event": "storage", "storage": storage, "flush": explanation.flush_sentence},
    )
    tables = [table.as_json() for table in explanation.tables]
    voice.say(f"lost after an acknowledgement: {_promises(explanation)}", {"event": "promises", "tables": tables})
    for url in broker.urls:
        voice.say(f"listening on {url}", {"event": "listening", "url": url})
    voice.say("ready", {"event": "ready", "urls": broker.urls})


async def _serve(config: BrokerConfig, explanation: Explanation, voice: _Voice) -> bool:
    """Serve until a signal says otherwise; return whether it was an interrupt."""
    import trio

    from mqcore.broker import serve_broker

    interrupted = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def run(*, task_status: trio.TaskStatus[Node]) -> None:
                await _check_addresses(config)
                await serve_broker(config, report=voice.report, task_status=task_status)
                nursery.cancel_scope.cancel()

            async def obey(broker: Node) -> None:
                nonlocal interrupted
                count = 0
                async for number in signals:
                    count += 1
                    interrupted = interrupted or number == signal.SIGINT
                    if count > 1:
                        nursery.cancel_scope.cancel()
                        return
                    voice.say("stopping", {"event": "stopping"})
                    broker.stop()

            broker = await nursery.start(run)
            nursery.start_soon(obey, broker)
            _introduce(broker, explanation, voice)
    return interrupted
