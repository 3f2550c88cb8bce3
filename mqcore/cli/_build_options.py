"""The options that compose a broker, one set for ``serve`` and ``explain``, and the configuration they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mqcore.errors import ConfigurationError, RefusedError

if TYPE_CHECKING:
    from mqcore.abc import OffsetStore
    from mqcore.config import BrokerConfig
    from mqcore.guarantees import Explanation

__all__ = ["build_options", "check_listeners", "compose", "explanation_of", "refuse_broken", "refuse_broken_file"]

F = TypeVar("F", bound=Callable[..., Any])
_SHORT_FORMS = {"storage": "url"}
_TLS_KEYS = {"tls_cert": "cert", "tls_key": "key", "client_ca": "client_ca", "ca": "ca"}


def build_options(function: F) -> F:
    """Decorator: the flags that stand for keys of the configuration file, and go before file and environment."""
    options = (
        click.option("--storage", metavar="URL", help="Where to store, as in mmap:///var/lib/mq or memory://."),
        click.option(
            "--listen", metavar="URL", multiple=True, help="Where to listen; may be repeated. [tcp://127.0.0.1:7400]"
        ),
        click.option("--tls-cert", metavar="FILE", help="Certificate of the listeners that encrypt, PEM."),
        click.option("--tls-key", metavar="FILE", help="Key of that certificate, PEM."),
        click.option("--client-ca", metavar="FILE", help="Authorities that clients must show a certificate of, PEM."),
        click.option("--ca", metavar="FILE", help="Authorities that the other nodes of a set are believed by, PEM."),
        click.option(
            "--insecure", is_flag=True, help="Listen where others can reach it, though anybody may do anything there."
        ),
        click.option(
            "--flush", metavar="POLICY", help="sync, async, async(max_messages=N, max_bytes=N, max_interval=T), none."
        ),
        click.option("--replication", metavar="POLICY", help="none, async(...), sync(copies=N, level=LEVEL)."),
        click.option(
            "--survive", metavar="FAULT", multiple=True, help="A fault that must lose nothing acknowledged; repeatable."
        ),
        click.option(
            "--offset-store", metavar="URL", help="Keep cursors of groups there, as in sqlite:///var/lib/mq/offsets.db."
        ),
        click.option("--limit", metavar="NAME=VALUE", multiple=True, help="One limit, as in frame_bytes_max='8 MB'."),
        click.option(
            "--set", "keys", metavar="KEY=VALUE", multiple=True, help="Any key, as in storage.segment_bytes='16 MB'."
        ),
        click.option("--name", help="Name of the broker in logs and replies."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def compose(file: str | None, flags: Mapping[str, Any]) -> BrokerConfig:
    """Return the configuration of a file (if any), the environment and the flags of ``build_options``."""
    from mqcore.config import load_config

    overrides: dict[str, object] = {
        key: flags[key]
        for key in ("storage", "flush", "replication", "name", "http", "offset_store")
        if flags.get(key) is not None
    }
    if flags.get("listen"):
        overrides["listen"] = list(flags["listen"])
    tls = {key: flags[flag] for flag, key in _TLS_KEYS.items() if flags.get(flag) is not None}
    if tls:
        overrides["tls"] = tls
    if flags.get("insecure"):
        overrides["insecure"] = True
    if flags.get("survive"):
        overrides["survive"] = [fault.strip() for text in flags["survive"] for fault in text.split(",")]
    if flags.get("limit"):
        overrides["limits"] = dict(_pair("--limit", text) for text in flags["limit"])
    for text in flags.get("keys") or ():
        _set(overrides, *_pair("--set", text))
    return load_config(file, overrides=overrides, environment=os.environ)


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigurationError(f"{option} {text!r}: write NAME=VALUE, as in connections_max=100")
    return name.strip(), value.strip()


def _set(overrides: dict[str, object], key: str, value: str) -> None:
    """Put ``value`` at the dotted ``key``; a URL or policy of its own flag becomes the table that it stands for."""
    *tables, last = key.split(".")
    table: dict[str, Any] = overrides
    for name in tables:
        inner = table.setdefault(name, {})
        if isinstance(inner, str):
            inner = table[name] = {_SHORT_FORMS.get(name, "policy"): inner}
        if not isinstance(inner, dict):
            raise ConfigurationError(f"--set {key}: {name} is given as a list; write it in a configuration file")
        table = inner
    table[last] = value


def check_listeners(config: BrokerConfig) -> None:
    """Refuse listeners that anybody elsewhere could use, unless that is meant. Raises ``ConfigurationError``."""
    from mqcore.abc import TransportContext
    from mqcore.broker import check_exposure
    from mqcore.registry import create_transport

    context = TransportContext(tls=config.tls)
    check_exposure(config, [create_transport(each.url, context, each.options) for each in config.listen])


def refuse_broken(explanation: Explanation) -> None:
    """Raise ``RefusedError`` if a broker would not start, since it could not keep what it promises."""
    refusals = [*explanation.refusals, *explanation.unavailable]
    if refusals:
        raise RefusedError("\n".join(f"refused: {refusal}" for refusal in refusals))


def refuse_broken_file(text: str) -> None:
    """Raise what a broker would that is given ``text`` as its file, on whichever machine: of this one nothing counts.

    Raises ``ConfigurationError``, ``PluginError``, ``RefusedError``.
    """
    import tomllib

    from mqcore.config import load_config

    config = load_config(overrides=tomllib.loads(text), overrides_name="configuration")
    refuse_broken(explanation_of(config, looks_below=False))


def explanation_of(config: BrokerConfig, *, looks_below: bool = True) -> Explanation:
    """Return what a broker of ``config`` promises; its parts are composed and checked, nothing is opened.

    ``looks_below``: at what the storage lies on, too, which is that of this machine.
    """
    import attrs

    from mqcore.abc import CoordinatorContext, StorageContext, TransportContext, ignore_notice
    from mqcore.broker import make_offset_store
    from mqcore.config import build_of
    from mqcore.grounds import ground_lines, judge, look_below
    from mqcore.guarantees import explain
    from mqcore.ports import system_ports
    from mqcore.registry import create_coordinator, create_storage, create_transport

    for listen in config.listen:
        create_transport(listen.url, TransportContext(tls=config.tls), listen.options)
    if config.cluster is not None and not config.cluster.coordinator.is_manual:
        coordinator = config.cluster.coordinator
        made = create_coordinator(coordinator.url, CoordinatorContext(ports=system_ports()), coordinator.options)
        if made.capabilities.one_process and config.own_set is not None and len(config.own_set.nodes) > 1:
            raise RefusedError(
                f"the coordinator {coordinator.url} lives within one program, and each node of the set "
                f"{config.own_set.name!r} is one of its own: use file:///DIRECTORY to try a set out on one machine, or "
                "etcd, zookeeper or postgres"
            )
    cursors = make_offset_store(config, system_ports(), ignore_notice)
    context = StorageContext(ports=system_ports(), limits=config.limits)
    backend = create_storage(config.storage.url, context, config.storage.options)
    build = build_of(config, backend.capabilities)
    explanation = explain(build)
    if not looks_below:
        return explanation
    below = look_below(context.ports, backend.directories)
    verdict = judge(build, below)
    return attrs.evolve(
        explanation,
        refusals=(*explanation.refusals, *verdict.refusals),
        notes=(*explanation.notes, *([] if cursors is None else [_cursors_line(cursors)]), *ground_lines(build, below)),
        warnings=tuple(notice.text for notice in verdict.notices),
    )


def _cursors_line(store: OffsetStore) -> str:
    lasting = "outlives a power cut" if store.capabilities.durable else "does not outlive a power cut of that store"
    where = ", for processes of one host" if store.capabilities.one_host else ""
    return (
        f"Cursors of groups are kept in {store.url}{where}: a commit is acknowledged once it is there, and {lasting}. "
        "While the store is down commits wait, messages do not."
    )
