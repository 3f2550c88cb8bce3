"""``mqcore serve``: a broker in the foreground. Says what it promises before it listens, stops in order on a signal."""

from __future__ import annotations

import gc
import json
import signal
import sys
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import click

from mqcore.cli._build_options import build_options, check_listeners, compose, explanation_of, refuse_broken
from mqcore.cli._reloading import Reloader, hangups_kept_off
from mqcore.cli._supervisor import tell_supervisor
from mqcore.cli.shell import (
    Verb,
    current,
    end,
    facts_in_words,
    line_queue,
    output_options,
    refuse,
    run_async,
)
from mqcore.errors import CommandNotPossibleError

if TYPE_CHECKING:
    from mqcore.abc import Notice
    from mqcore.broker import Node
    from mqcore.cli._cluster_here import ClusterPlan
    from mqcore.cli._output import LineQueue
    from mqcore.config import BrokerConfig
    from mqcore.guarantees import Explanation

__all__ = ["command"]

OPEN_FILES_MIN = 32
"""Descriptors without which a broker with a file storage does not get as far as to say what it lacks."""

_GC_THRESHOLDS = 2_000, 25, 100
"""A full collection looks at every object there is while nothing else runs: a fifth of a second with ten thousand
partitions, again and again while they are opened, which is more than some leases can spare. What is made in cycles here
dies young, and the younger generations find it.
"""


@click.command(
    "serve",
    cls=Verb,
    examples=[
        "mqcore serve --storage mmap:///tmp/mq --flush sync",
        "mqcore serve --storage mmap:///tmp/mq --listen tcp://127.0.0.1:7400 --listen unix:///tmp/mq.sock",
        "mqcore serve --config broker.toml --survive power-cut",
        "mqcore serve --config broker.toml --http 127.0.0.1:7480 --log-format json",
        "mqcore serve --cluster-here 3 --storage mmap:///tmp/mq",
    ],
)
@click.argument("path", metavar="[FILE]", required=False, type=click.Path(dir_okay=False))
@click.option("--config", "file", metavar="FILE", type=click.Path(dir_okay=False), help="TOML file; flags override it.")
@click.option(
    "--cluster-here",
    type=click.IntRange(1, 9),
    metavar="N",
    help="Run a whole replica set of N nodes on this machine, for trying out: one process each, ended together.",
)
@click.option("--http", metavar="HOST:PORT", help="Show /metrics, /health and /ready there, to all who reach it.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Events and notices as text, or as JSON: one object a line. [as --output]",
)
@build_options
@output_options
def command(
    path: str | None,
    file: str | None,
    cluster_here: int | None,
    log_format: str | None,
    **flags: Any,
) -> None:
    """Run a broker until Ctrl-C or SIGTERM, which let it answer what is in flight; a second does not wait.

    Status is 130 after Ctrl-C, else 0. SIGHUP has a configuration file read again: what can be applied is, the rest is
    named, and with an error in it nothing changes. Without a file it ends the broker; it is ignored where it was
    (nohup).

    It prints what an acknowledgement means and the URLs that clients connect to. A build that cannot keep what it
    promises is refused with the reason, and status 3.
    """
    if path is not None and file is not None:
        refuse(f"{path} and --config {file}: give one of the two")
    if cluster_here is not None:
        if path or file or flags.get("name"):
            refuse("--cluster-here writes the configuration and the names of its nodes: leave the file and --name out")
        if flags.get("http"):
            refuse("--http is of one broker, and --cluster-here runs several: leave one of the two out")
        for flag in ("tls_cert", "tls_key", "client_ca", "ca", "insecure"):
            if flags.get(flag):
                option = f"--{flag.replace('_', '-')}"
                refuse(f"{option} is without effect on --cluster-here, whose nodes listen on tcp://127.0.0.1: drop it")
        _serve_cluster_here(cluster_here, flags)
        return
    # From before the file is read: a change that comes with a signal is read then, or obeyed later.
    with nullcontext() if (path or file) is None else hangups_kept_off():
        _serve_one(path or file, log_format, flags)


def _serve_one(file: str | None, log_format: str | None, flags: dict[str, Any]) -> None:
    """Run the broker of ``file`` and ``flags`` until a signal ends it."""
    config = compose(file, flags)
    explanation = explanation_of(config)
    refuse_broken(explanation)
    check_listeners(config)
    if config.http is not None:
        _check_gateway(config.http)
    _check_open_files()
    as_json = current().json if log_format is None else log_format == "json"
    with line_queue("stdout", as_json) as out, line_queue("stderr", as_json) as err:
        voice = _Voice(out, err, as_json)
        reloader = None if file is None else Reloader(file, flags, voice.say, voice.report)
        gc.set_threshold(*_GC_THRESHOLDS)
        interrupted = run_async(_serve, config, explanation, voice, reloader)
    if interrupted:
        end(130)


def _refuse_what_nodes_would(plan: ClusterPlan, flags: dict[str, Any]) -> None:
    """Raise what every node would, before one is started: each would say so, and take seconds to be there."""
    import tempfile
    from pathlib import Path

    name, _, storage = plan.nodes[0]
    own = {"name": name, "storage": storage, "listen": (), "replication": None}
    with tempfile.TemporaryDirectory(prefix="mqcore-here-") as folder:
        file = Path(folder) / plan.file.name
        file.write_text(plan.text)
        refuse_broken(explanation_of(compose(str(file), {**flags, **own})))


def _serve_cluster_here(count: int, flags: dict[str, Any]) -> None:
    """Run a set of ``count`` nodes below the folder of ``--storage``, or below one that is made and removed."""
    import shutil
    import tempfile
    from pathlib import Path

    from mqcore.cli._cluster_here import ClusterHere, ClusterPlan
    from mqcore.url import Url

    rest = Url.parse(flags["storage"]).rest if flags["storage"] else ""
    folder = Path(rest) if rest else Path(tempfile.mkdtemp(prefix="mqcore-here-"))
    as_json = current().json
    try:
        with line_queue("stdout", as_json) as out, line_queue("stderr", as_json) as err:
            voice = _Voice(out, err, as_json)
            plan = ClusterPlan.of(count, folder, flags)
            _refuse_what_nodes_would(plan, flags)
            here = ClusterHere(plan, lambda text, event: voice.say(text, dict(event)))
            interrupted = run_async(here.run)
    finally:
        if not rest:
            shutil.rmtree(folder, ignore_errors=True)
    if interrupted:
        end(130)


def _check_open_files() -> None:
    from mqcore.ports import system_ports

    allowed = system_ports().files.open_files_max()
    if allowed < OPEN_FILES_MIN:
        raise CommandNotPossibleError(
            f"this process may open {allowed} files, and a broker needs {OPEN_FILES_MIN}: raise the limit (ulimit -n)"
        )


def _check_gateway(http: str) -> None:
    """Refuse what the gateway cannot be composed of, before a storage is made or recovered."""
    from mqcore.registry import find
    from mqcore.url import Url

    host, _ = Url.parse(f"http://{http}").address
    if not host.isascii():
        refuse(f"http {http}: {host!r} is no host name")
    find("gateways", "http")


async def _check_addresses(config: BrokerConfig) -> None:
    """Listen everywhere for a moment: an address that is in use is told before a storage is made or recovered."""
    from contextlib import AsyncExitStack

    from mqcore.abc import TransportContext
    from mqcore.registry import create_transport

    context = TransportContext(tls=config.tls)
    async with AsyncExitStack() as listening:
        for listen in config.listen:
            await listening.enter_async_context(await create_transport(listen.url, context, listen.options).listen())


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


FOR_PROGRAMS = frozenset({"url", "mount", "array_id", "members", "degraded", "scrub"})
"""Facts of a storage that the line for people says already, that notices say, or that mean nothing to them."""


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
    when = " once the storage is whole again, which is DEGRADED" if storage.get("degraded") else ""
    voice.say(f"lost after an acknowledgement{when}: {_promises(explanation)}", {"event": "promises", "tables": tables})
    for url in broker.urls:
        voice.say(f"listening on {url}", {"event": "listening", "url": url})
    voice.say("ready", {"event": "ready", "urls": broker.urls})


def _ending_signals(*, reloads: bool) -> list[signal.Signals]:
    ending = [signal.SIGINT, signal.SIGTERM]
    # A terminal that closes ends what runs in it, with a drain. Whoever starts it under nohup has said otherwise.
    if not reloads and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    return ending


async def _serve(config: BrokerConfig, explanation: Explanation, voice: _Voice, reloader: Reloader | None) -> bool:
    """Serve until a signal says otherwise; return whether it was an interrupt."""
    import trio

    from mqcore.broker import serve_broker

    interrupted = False
    with ExitStack() as receivers:
        signals = receivers.enter_context(trio.open_signal_receiver(*_ending_signals(reloads=reloader is not None)))
        hangups = None if reloader is None else receivers.enter_context(trio.open_signal_receiver(signal.SIGHUP))
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
                    tell_supervisor("STOPPING=1")
                    voice.say("stopping", {"event": "stopping"})
                    broker.stop()

            broker = await nursery.start(run)
            nursery.start_soon(obey, broker)
            if reloader is not None and hangups is not None:
                reloader.serve(broker)
                nursery.start_soon(reloader.obey, broker, hangups)
            if broker.http_url:
                voice.say(f"showing {broker.http_url}/metrics", {"event": "http", "url": broker.http_url})
            _introduce(broker, explanation, voice)
            tell_supervisor("READY=1")
    return interrupted
