"""Composes parts from URLs and holds them against their contracts: abilities, contract version, options.

What can be known without I/O is refused here; the broker never meets a part that this module has not seen. Must not
name any part but by URL scheme, codec name or tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from mqcore.abc import (
    CONTRACT_VERSION,
    AccessContext,
    AccessRule,
    Authenticator,
    Authorizer,
    Capabilities,
    Codec,
    Coordinator,
    CoordinatorCapabilities,
    CoordinatorContext,
    Filter,
    Gateway,
    GatewayContext,
    OffsetStore,
    OffsetStoreCapabilities,
    OffsetStoreContext,
    StorageBackend,
    StorageContext,
    Transport,
    TransportCapabilities,
    TransportContext,
)
from mqcore.errors import ConfigurationError, MqcoreError, PluginInvalidError, PluginNotFoundError
from mqcore.guarantees.levels import Level
from mqcore.registry._entry_points import GROUPS, Installed, extra_hint, find, installed, load, one_line
from mqcore.registry._options import Source, merge_options
from mqcore.url import Url

__all__ = [
    "PluginReport",
    "check",
    "codec_of_tag",
    "create_authenticator",
    "create_authorizer",
    "create_coordinator",
    "create_filter",
    "create_gateway",
    "create_offset_store",
    "create_storage",
    "create_transport",
    "find_codec",
    "list_plugins",
    "validate_capabilities",
]

C = TypeVar("C", Capabilities, TransportCapabilities, CoordinatorCapabilities, OffsetStoreCapabilities)

_LOG_NAME_BYTES_MIN = 64
_APPEND_BYTES_MIN = 4096
_VALUE_BYTES_MIN = 64 * 1024
_COMMIT_CURSORS_MIN = 100
_CODEC_NAMES = {1: "zlib", 2: "zstandard", 3: "lz4"}
_PRIVATE_TAGS = range(128, 256)
_SAMPLES = ("{name}:///var/lib/mqcore-sample", "{name}://127.0.0.1:0", "{name}://sample", "{name}://")

_codecs: dict[str, Codec] = {}
_codecs_by_tag: dict[int, Codec] = {}


@attrs.frozen(kw_only=True)
class PluginReport:
    """What is known of one part. ``problem`` is empty when it loads and keeps its contract as far as can be seen.

    ``capabilities`` is None where they could not be asked without a URL of the user's.
    """

    group: str
    name: str
    distribution: str
    version: str
    target: str
    loads: bool
    problem: str = ""
    capabilities: Mapping[str, object] | None = None


def create_storage(
    url: str | Url, context: StorageContext, table: Mapping[str, object] | None = None
) -> StorageBackend:
    """Return the storage backend that the scheme of ``url`` picks; nothing is opened.

    Options come from the URL's query and from ``table`` (a TOML table or flags); the same option with two values is an
    error. Raises ``ConfigurationError``, ``PluginNotFoundError``, ``PluginInvalidError``.
    """
    url = Url.parse(url) if isinstance(url, str) else url
    part = find("storage", url.scheme)
    backend: StorageBackend = part(url, _options(part, url, table, "storage"), context)
    validate_capabilities(url.scheme, backend.capabilities)
    return backend


def create_transport(
    url: str | Url, context: TransportContext | None = None, table: Mapping[str, object] | None = None
) -> Transport:
    """Return the transport that the scheme of ``url`` picks; nothing is opened. As ``create_storage`` in all else.

    Without ``context`` it draws from the system's randomness, reports nothing and keeps the default limits.
    """
    url = Url.parse(url) if isinstance(url, str) else url
    part = find("transports", url.scheme)
    transport: Transport = part(url, _options(part, url, table, "transport"), context or TransportContext())
    _validate_transport(url.scheme, transport.capabilities)
    return transport


def create_coordinator(
    url: str | Url, context: CoordinatorContext, table: Mapping[str, object] | None = None
) -> Coordinator:
    """Return the coordinator that the scheme of ``url`` picks; nothing is connected. As ``create_storage`` else."""
    url = Url.parse(url) if isinstance(url, str) else url
    part = find("coordinators", url.scheme)
    coordinator: Coordinator = part(url, _options(part, url, table, "coordinator"), context)
    who = f"coordinator {url.scheme!r}"
    _validate_at_least(who, coordinator.capabilities, CoordinatorCapabilities, "value_bytes_max", _VALUE_BYTES_MIN)
    return coordinator


def create_offset_store(
    url: str | Url, context: OffsetStoreContext, table: Mapping[str, object] | None = None
) -> OffsetStore:
    """Return the offset store that the scheme of ``url`` picks; nothing is opened. As ``create_storage`` else."""
    url = Url.parse(url) if isinstance(url, str) else url
    part = find("offset_stores", url.scheme)
    store: OffsetStore = part(url, _options(part, url, table, "offset store"), context)
    who = f"offset store {url.scheme!r}"
    _validate_at_least(who, store.capabilities, OffsetStoreCapabilities, "commit_cursors_max", _COMMIT_CURSORS_MIN)
    return store


def create_gateway(url: str | Url, context: GatewayContext, table: Mapping[str, object] | None = None) -> Gateway:
    """Return the gateway that the scheme of ``url`` picks; nothing listens yet. As ``create_storage`` in all else."""
    url = Url.parse(url) if isinstance(url, str) else url
    part = find("gateways", url.scheme)
    gateway: Gateway = part(url, _options(part, url, table, "gateway"), context)
    return gateway


def create_authenticator(
    name: str, context: AccessContext | None = None, table: Mapping[str, object] | None = None
) -> Authenticator:
    """Return the authenticator called ``name`` with the options of ``table``; no file is read.

    Raises ``ConfigurationError``, ``PluginNotFoundError``, ``PluginInvalidError``.
    """
    part = find("authenticators", name)
    options = merge_options(part.options_class, [(f"the options of authenticator {name!r}", table or {})])
    authenticator: Authenticator = part(name, options, context or AccessContext())
    return authenticator


def create_authorizer(
    name: str,
    rules: tuple[AccessRule, ...] = (),
    context: AccessContext | None = None,
    table: Mapping[str, object] | None = None,
) -> Authorizer:
    """Return the authorizer called ``name`` with ``rules`` and the options of ``table``. Raises as the one above."""
    part = find("authorizers", name)
    options = merge_options(part.options_class, [(f"the options of authorizer {name!r}", table or {})])
    authorizer: Authorizer = part(name, options, rules, context or AccessContext())
    return authorizer


def create_filter(text: str) -> Filter:
    """Return the filter of ``NAME:EXPRESSION``, such as ``header:colour=red|blue``.

    Raises ``ConfigurationError`` for another form or an expression that cannot be, ``PluginNotFoundError`` for a name
    that no installed filter has, ``PluginInvalidError``.
    """
    name, colon, expression = text.partition(":")
    if not colon:
        raise ConfigurationError(f"filter {text!r}: write NAME:EXPRESSION, as in header:colour=red|blue")
    made: Filter = find("filters", name)(expression)
    return made


def find_codec(name: str) -> Codec:
    """Return the codec called ``name``; one object per process.

    Raises as ``find``; names the extra when the codec's library is missing.
    """
    codec = _codecs.get(name)
    if codec is None:
        part = find("codecs", name)
        try:
            codec = part()
        except ImportError as error:
            raise PluginNotFoundError(
                f"codec {name!r} needs a library that is not installed ({one_line(error)}){extra_hint('codecs', name)}"
            ) from error
        assert isinstance(codec, Codec)
        if not isinstance(codec.tag, int) or not 1 <= codec.tag <= 255 or codec.name != name:
            raise PluginInvalidError(
                f"codec {name!r} declares name {codec.name!r} and tag {codec.tag!r}; "
                "the name must be its entry point's, the tag 1 to 255"
            )
        _codecs[name] = codec
    return codec


def codec_of_tag(tag: int) -> Codec:
    """Return the codec with the number ``tag`` of a batch header (1 to 255); one object per process.

    Raises ``PluginNotFoundError`` naming the tag, ``PluginInvalidError`` when two codecs have it.
    """
    codec = _codecs_by_tag.get(tag)
    if codec is not None:
        return codec
    if tag in _CODEC_NAMES:
        codec = find_codec(_CODEC_NAMES[tag])
    elif tag in _PRIVATE_TAGS:
        codec = _private_codec(tag)
    else:
        raise PluginNotFoundError(f"no codec has the tag {tag}; known: {_tags_in_words()}")
    if codec.tag != tag:
        raise PluginInvalidError(f"codec {codec.name!r} declares tag {codec.tag}; tag {tag} is its own")
    _codecs_by_tag[tag] = codec
    return codec


def validate_capabilities(name: str, capabilities: object) -> Capabilities:
    """Return ``capabilities`` of the storage backend ``name``; ``PluginInvalidError`` says what cannot be."""
    who = f"storage backend {name!r}"
    declared = _declared(who, capabilities, Capabilities)
    append, flush = declared.append_level, declared.flush_level
    losses = declared.member_losses_survived
    impossible = ""
    if flush < append:
        impossible = f"flush reaches {flush.label}, less than append, which reaches {append.label}"
    elif append is Level.NONE and flush is not Level.NONE:
        impossible = f"append reaches none, so a flush cannot reach {flush.label}"
    elif losses < 0:
        impossible = f"{losses} member losses survived"
    elif losses and flush < Level.MIRROR:
        impossible = (
            f"{losses} member losses survived with a flush that reaches {flush.label} only: one member has every copy"
        )
    elif flush is Level.MIRROR and not losses:
        impossible = "level mirror, but no member loss survived"
    elif declared.append_bytes_max < _APPEND_BYTES_MIN:
        impossible = f"append_bytes_max {declared.append_bytes_max}, less than {_APPEND_BYTES_MIN}"
    elif declared.log_name_bytes_max < _LOG_NAME_BYTES_MIN:
        impossible = f"log_name_bytes_max {declared.log_name_bytes_max}, less than {_LOG_NAME_BYTES_MIN}"
    elif declared.logs_max is not None and declared.logs_max < 1:
        impossible = f"logs_max {declared.logs_max}"
    if impossible:
        raise PluginInvalidError(f"{who} declares what cannot be: {impossible}")
    return declared


def list_plugins(context: StorageContext | None = None) -> list[PluginReport]:
    """Return a report on every part of every group, broken ones included; never raises for a part.

    With ``context`` the storage backends are constructed (no I/O) to ask their capabilities.
    """
    return [report for group in GROUPS for item in installed(group) for report in (_report(item, context),)]


def check(group: str, name: str, *, url: str | None = None, context: StorageContext | None = None) -> PluginReport:
    """Return a report on one part; ``url`` is one that it understands, to ask its capabilities and check its options.

    Raises ``PluginNotFoundError``; whatever else is wrong stands in ``problem``.
    """
    try:
        find(group, name)
    except PluginInvalidError as error:
        item = installed(group, name)[0]
        return _describe(item, problem=str(error))
    return _report(installed(group, name)[0], context, url)


def _options(part: type[Any], url: Url, table: Mapping[str, object] | None, what: str) -> Any:
    sources: list[Source] = [(str(url), url.query)]
    if table:
        sources.append((f"the options of {what} {url.scheme!r}", table))
    return merge_options(part.options_class, sources)


def _declared(who: str, capabilities: object, wanted: type[C]) -> C:
    """Return the capabilities of a part, once they are of its kind's class and of this contract."""
    if not isinstance(capabilities, wanted):
        raise PluginInvalidError(f"{who}: capabilities must be an mqcore.abc.{wanted.__name__}, not {capabilities!r}")
    version = capabilities.contract_version
    if version != CONTRACT_VERSION:
        older = "an older" if version < CONTRACT_VERSION else "a newer"
        raise PluginInvalidError(
            f"{who} is written for {older} contract, version {version}; this mqcore speaks version {CONTRACT_VERSION}: "
            f"install a matching version of {'the part' if version < CONTRACT_VERSION else 'mqcore'}"
        )
    return capabilities


def _validate_transport(name: str, capabilities: object) -> None:
    who = f"transport {name!r}"
    declared = _declared(who, capabilities, TransportCapabilities)
    if declared.silence_ms < 0:
        raise PluginInvalidError(f"{who} declares what cannot be: silence_ms {declared.silence_ms}")
    if declared.streams_max is not None and declared.streams_max < 1:
        raise PluginInvalidError(f"{who} declares what cannot be: streams_max {declared.streams_max}")


def _validate_at_least(who: str, capabilities: object, wanted: type[C], key: str, least: int) -> None:
    value = getattr(_declared(who, capabilities, wanted), key)
    if value < least:
        raise PluginInvalidError(f"{who} declares what cannot be: {key} {value}, less than {least}")


def _private_codec(tag: int) -> Codec:
    owners = [item.name for item in installed("codecs") if _tag_of(item) == tag]
    if not owners:
        raise PluginNotFoundError(f"no codec has the private tag {tag}; install the plug-in that brings it")
    if len(owners) > 1:
        raise PluginInvalidError(f"two codecs have the tag {tag}: {' and '.join(owners)}; uninstall one of them")
    return find_codec(owners[0])


def _tag_of(item: Installed) -> int | None:
    """Return the tag of a codec, or None when it does not load: a broken codec must not hide the others."""
    try:
        tag = load(item).tag
    except PluginInvalidError:
        return None
    return tag if isinstance(tag, int) else None


def _tags_in_words() -> str:
    return ", ".join(f"{tag} {name}" for tag, name in _CODEC_NAMES.items()) + ", 128 and up private"


def _report(item: Installed, context: StorageContext | None, url: str | None = None) -> PluginReport:
    try:
        part = find(item.group, item.name)
    except MqcoreError as error:
        return _describe(item, problem=str(error))
    try:
        if item.group == "codecs":
            return _describe(item, loads=True, capabilities={"tag": find_codec(item.name).tag})
        if item.group in ("assignors", "commands", "authenticators", "authorizers", "filters"):
            return _describe(item, loads=True)
        capabilities = _sample_capabilities(item, part, context, url)
    except MqcoreError as error:
        return _describe(item, loads=True, problem=str(error))
    except Exception as error:
        return _describe(item, loads=True, problem=f"raised when it was composed: {one_line(error)}")
    return _describe(item, loads=True, capabilities=capabilities)


def _describe(
    item: Installed, *, loads: bool = False, problem: str = "", capabilities: Mapping[str, object] | None = None
) -> PluginReport:
    return PluginReport(
        group=item.group,
        name=item.name,
        distribution=item.distribution,
        version=item.version,
        target=item.target,
        loads=loads,
        problem=problem,
        capabilities=capabilities,
    )


def _sample_capabilities(
    item: Installed, part: type[Any], context: StorageContext | None, url: str | None
) -> Mapping[str, object] | None:
    """Return the capabilities of a part composed with ``url``, or with the first sample URL that it takes."""
    if item.group in ("storage", "coordinators", "offset_stores") and context is None:
        return None
    for sample in [url] if url else [text.format(name=item.name) for text in _SAMPLES]:
        try:
            if item.group == "storage":
                assert context is not None
                return _plain(create_storage(sample, context).capabilities)
            if item.group == "coordinators":
                assert context is not None
                asked = create_coordinator(sample, CoordinatorContext(ports=context.ports, limits=context.limits))
                return _plain(asked.capabilities)
            if item.group == "offset_stores":
                assert context is not None
                store = create_offset_store(sample, OffsetStoreContext(ports=context.ports, limits=context.limits))
                return _plain(store.capabilities)
            return _plain(create_transport(sample).capabilities)
        except PluginInvalidError:
            raise
        except ConfigurationError:
            if url:
                raise
    return None


def _plain(
    capabilities: Capabilities | TransportCapabilities | CoordinatorCapabilities | OffsetStoreCapabilities,
) -> Mapping[str, object]:
    values = attrs.asdict(capabilities)
    return {name: value.label if isinstance(value, Level) else value for name, value in values.items()}
