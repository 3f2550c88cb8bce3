"""``mqcore serve``: a broker in the foreground. Says what it promises before it listens, stops in order on a signal."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from mqcore.cli._build_options import build_options, compose, explanation_of
from mqcore.cli.shell import (
    ReaderGone,
    Verb,
    current,
    end,
    facts_in_words,
    output_options,
    run_async,
    write_json,
    write_line,
)
from mqcore.errors import CommandNotPossibleError, RefusedError

if TYPE_CHECKING:
    from mqcore.abc import Notice
    from mqcore.broker import Node
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
    interrupted = run_async(_serve, config, explanation, current().json)
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


def _say(text: str, record: dict[str, object], as_json: bool) -> None:
    """Tell whoever started the broker; that nobody listens is no reason to stop it."""
    with contextlib.suppress(ReaderGone):
        if as_json:
            write_json(record)
        else:
            write_line(text)


def _report(as_json: bool, notice: Notice) -> None:
    """Write a notice of the running broker to standard error."""
    if as_json:
        line = json.dumps({"notice": notice.kind, "text": notice.text, "facts": dict(notice.facts)}, default=str)
    else:
        facts = facts_in_words(notice.facts)
        line = f"{notice.kind}: {notice.text}{f' ({facts})' if facts else ''}"
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _promises(explanation: Explanation) -> str:
    kept = {row.fault.label: row.text for table in explanation.tables[:1] for row in table.promises}
    return "; ".join(f"{fault}: {text}" for fault, text in kept.items())


FOR_PROGRAMS = frozenset({"url", "mount"})
"""Facts of a storage that the line for people says already, or that mean nothing to them."""


def _introduce(broker: Node, explanation: Explanation, as_json: bool) -> None:
    status = broker.status()
    if not sys.platform.startswith("linux"):
        text = "this is not Linux: only the memory parts are supported"
        _say(text, {"event": "platform", "supported": False}, as_json)
    storage = status["storage"]
    assert isinstance(storage, dict)
    facts = facts_in_words({key: value for key, value in storage.items() if key not in FOR_PROGRAMS})
    _say(
        f"storage {explanation.storage}{f' ({facts})' if facts else ''}; {explanation.flush_sentence}",
        {"event": "storage", "storage": storage, "flush": explanation.flush_sentence},
        as_json,
    )
    tables = [table.as_json() for table in explanation.tables]
    _say(f"lost after an acknowledgement: {_promises(explanation)}", {"event": "promises", "tables": tables}, as_json)
    for url in broker.urls:
        _say(f"listening on {url}", {"event": "listening", "url": url}, as_json)
    _say("ready", {"event": "ready", "urls": broker.urls}, as_json)


async def _serve(config: BrokerConfig, explanation: Explanation, as_json: bool) -> bool:
    """Serve until a signal says otherwise; return whether it was an interrupt."""
    import trio

    from mqcore.broker import serve_broker

    interrupted = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def run(*, task_status: trio.TaskStatus[Node]) -> None:
                report = functools.partial(_report, as_json)
                await _check_addresses(config)
                await serve_broker(config, report=report, task_status=task_status)
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
                    _say("stopping", {"event": "stopping"}, as_json)
                    broker.stop()

            broker = await nursery.start(run)
            nursery.start_soon(obey, broker)
            _introduce(broker, explanation, as_json)
    return interrupted
