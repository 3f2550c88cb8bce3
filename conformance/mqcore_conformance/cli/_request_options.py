"""The options of ``run`` and ``list``, and the request that they make. Every value is checked before anything runs.

A command that names neither a storage nor a transport tests what ./pyproject.toml says, as pytest does there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click

from mqcore.cli.shell import Duration, refuse
from mqcore_conformance.claims import (
    PARTNER_STORAGE,
    PARTNER_TRANSPORT,
    SEEDS_MAX,
    Claims,
    SuiteSettings,
    load_claims,
    read_settings,
)
from mqcore_conformance.contract import use_server
from mqcore_conformance.disk_space import require_room
from mqcore_conformance.plans import (
    CRASH_POINTS,
    EVERY_FAMILY,
    FAMILIES,
    FLUSH_POLICIES,
    SET_REPLICATIONS,
)
from mqcore_conformance.running import (
    AUTHENTICATORS,
    COORDINATORS,
    OFFSET_STORES,
    STORAGES,
    TIERS,
    TRANSPORTS,
    Request,
    resolve_authenticator,
    resolve_coordinator,
    resolve_offset_store,
    resolve_storage,
    resolve_transport,
    tiers_of,
)
from mqcore_conformance.worlds.processes import SET_COORDINATORS

_NEXT_URL = re.compile(r",(?=\s*[a-z][a-z0-9+.-]*(?:://|\s*,|\s*\Z))")
F = TypeVar("F", bound=Callable[..., Any])


def _budget(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Return a duration in ms. A bare number would be ms here and seconds to its writer."""
    if value is None:
        return None
    if value.strip().isdigit():
        raise click.BadParameter(
            f"{value!r} has no unit; write {value.strip()}s or {value.strip()}m", context, parameter
        )
    budget_ms: int = Duration.convert(value, parameter, context)
    if budget_ms < 1:
        raise click.BadParameter(f"{value!r}: nothing could begin; leave it out for no limit", context, parameter)
    return budget_ms


def _names(option: str, names: str, default: str = "", metavar: str = "NAMES") -> Callable[[F], F]:
    """Return an option that takes several names."""
    return click.option(option, multiple=True, metavar=metavar, help=f"{names}; by comma, repeatable.{default}")


def _unless_set(default: object) -> str:
    return f" [what ./pyproject.toml says, else {default}]"


_TESTED = (
    click.option(
        "--storage",
        multiple=True,
        metavar="URLS",
        help=f"URLs with {{dir}}, names, or all; by comma, repeatable.{_unless_set('all')}",
    ),
    _names("--transport", "Names or URLs", _unless_set("all")),
    click.option(
        "--coordinator",
        multiple=True,
        metavar="URL",
        help=f"A URL, its name, or all of mqcore's own without a server; repeatable.{_unless_set('none')}",
    ),
    click.option(
        "--offset-store",
        multiple=True,
        metavar="URL",
        help=f"A URL, its name, or all of mqcore's own without a server; repeatable.{_unless_set('none')}",
    ),
    click.option(
        "--authenticator",
        multiple=True,
        metavar="NAME",
        help=f"A name, or all of mqcore's own; repeatable.{_unless_set('none')}",
    ),
    click.option(
        "--server",
        multiple=True,
        metavar="MODULE:CLASS",
        help="What starts and harms the server of one of these (ServerControl), or has the users of an authenticator "
        f"(LoginControl); repeatable.{_unless_set('none')}",
    ),
    _names("--flush", ", ".join(FLUSH_POLICIES), " [all]"),
    _names(
        "--family",
        f"Families of faults: {', '.join(EVERY_FAMILY)}",
        f" All leaves out {CRASH_POINTS}.{_unless_set('all')}",
    ),
    _names("--tier", ", ".join(TIERS), _unless_set("contract,T0, and a little T1 for parts that are not mqcore's")),
    click.option(
        "--nodes",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Cells of replica sets of so many nodes, with a coordinator in memory (T0) or the one of "
        "--set-coordinator (T1), instead of a broker alone.",
    ),
    click.option(
        "--replication",
        metavar="NAME",
        help=f"Replication of those sets: {', '.join(SET_REPLICATIONS)}.  [the first, where there are several nodes]",
    ),
    click.option(
        "--set-coordinator",
        type=click.Choice(["file", *SET_COORDINATORS]),
        default="file",
        show_default=True,
        help="Coordinator of those sets in T1: a file, or a server that each run starts.",
    ),
    _names("--clause", "Judge these clauses only: G01,G11", metavar="IDS"),
    click.option("--cell", default="", metavar="TEXT", help="Only what has this in its name, as list prints it."),
)
_HOW_MUCH = (
    click.option(
        "--seeds",
        type=click.IntRange(1, SEEDS_MAX),
        help=f"Seeds per cell, at most {SEEDS_MAX}.{_unless_set(SuiteSettings().seeds)}",
    ),
    click.option("--first-seed", type=click.IntRange(0), help="The first of them. [0]"),
    click.option("--seed", "exact", type=click.IntRange(0), multiple=True, help="Exactly this seed; repeatable."),
    click.option(
        "--budget",
        metavar="DURATION",
        callback=_budget,
        help="Begin nothing after this time, such as 60s; status 4 when it cuts.",
    ),
    click.option("--jobs", type=click.IntRange(1, 64), help="Processes at once. [the cores that this process may use]"),
)
_PLACES = (
    click.option(
        "--claims",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help=f"What the parts claim and what is known to fail.{_unless_set('nothing')}",
    ),
    click.option(
        "--dir",
        "folder_of_data",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, writable=True, resolve_path=True, path_type=Path),
        help="Where {dir} is: on the disk in question. [the system's folder for temporary files]",
    ),
)


def request_options(function: F) -> F:
    """Decorator: what ``request_of`` reads."""
    for option in reversed((*_TESTED, *_HOW_MUCH, *_PLACES)):
        function = option(function)
    return function


def request_of(options: Mapping[str, Any]) -> tuple[Request, Path | None]:
    """Return the request of a command line, and where data goes; ``ConfigurationError`` in one line."""
    exact: tuple[int, ...] = options["exact"]
    if exact and (options["seeds"] is not None or options["first_seed"] is not None):
        refuse("--seed says exactly which seeds; leave out --seeds and --first-seed")
    first = options["first_seed"] or 0
    budget_ms = options["budget"]
    parts = _parts(options)
    settings = parts.settings
    storages = _each(parts.storages, STORAGES, resolve_storage) if parts.storages else ()
    asked = _split(options["tier"], settings.tiers)
    transports = _each(parts.transports, TRANSPORTS, resolve_transport) if parts.transports else ()
    own = [[url for url in urls if url not in parts.partners] for urls in (storages, transports)]
    tiers, t1_by_default = tiers_of(_each(asked, TIERS, _tier) if asked else (), *own)
    for server in options["server"] or settings.servers:
        use_server(server)
    request = Request(
        storages=storages,
        transports=transports,
        coordinators=_each(parts.coordinators, COORDINATORS, resolve_coordinator) if parts.coordinators else (),
        offset_stores=_each(parts.offset_stores, OFFSET_STORES, resolve_offset_store) if parts.offset_stores else (),
        authenticators=_each(parts.authenticators, AUTHENTICATORS, resolve_authenticator)
        if parts.authenticators
        else (),
        servers=options["server"] or settings.servers,
        partners=parts.partners,
        flushes=_each(_split(options["flush"], ("all",)), FLUSH_POLICIES),
        families=_each(_split(options["family"], parts.families), FAMILIES),
        tiers=tiers,
        t1_by_default=t1_by_default,
        clauses=tuple(dict.fromkeys(part.upper() for part in _split(options["clause"], ()))),
        cells=options["cell"],
        seeds=tuple(dict.fromkeys(exact)) or range(first, first + (options["seeds"] or settings.seeds)),
        extra_seeds=not exact,
        budget_s=budget_ms / 1000 if budget_ms is not None else None,
        jobs=options["jobs"] or min(64, len(os.sched_getaffinity(0))),
        claims=load_claims(parts.claims) if parts.claims is not None else Claims(),
        claims_path=str(parts.claims or ""),
        check_seconds_max=settings.check_seconds_max,
        nodes=options["nodes"],
        set_coordinator="" if options["set_coordinator"] == "file" else options["set_coordinator"],
        replication=options["replication"] or ("none" if options["nodes"] == 1 else next(iter(SET_REPLICATIONS))),
    )
    if set(request.tiers) - {"T0"}:
        require_room(options["folder_of_data"])
    return request, options["folder_of_data"]


@attrs.frozen(kw_only=True)
class _Parts:
    """What is under test, and its settings in ./pyproject.toml. ``partners``: what only goes with it in cells."""

    storages: tuple[str, ...]
    transports: tuple[str, ...]
    coordinators: tuple[str, ...] = ()
    offset_stores: tuple[str, ...] = ()
    authenticators: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    claims: Path | None = None
    families: tuple[str, ...] = ("all",)
    settings: SuiteSettings = attrs.field(factory=SuiteSettings)


def _parts(options: Mapping[str, Any]) -> _Parts:
    """Return what is tested: who names no part means those of ./pyproject.toml, with its other settings."""
    storages = _split_urls(options["storage"])
    alone = {
        "coordinators": options["coordinator"],
        "offset_stores": options["offset_store"],
        "authenticators": options["authenticator"],
    }
    claims = options["claims"]
    partners: tuple[str, ...] = ()
    transports = _split(options["transport"], ("all",))
    if any(alone.values()) and not storages and not options["transport"]:
        return _Parts(storages=(), transports=(), claims=claims, **alone)
    settings = SuiteSettings() if storages or options["transport"] else read_settings(Path())
    if settings == SuiteSettings():
        return _Parts(storages=storages or ("all",), transports=transports, claims=claims, **alone)
    if not settings.storage and not settings.transport:
        everything = () if settings.coordinator or settings.offset_store or settings.authenticator else ("all",)
        storages, transports = everything, everything
    else:
        storages, transports = settings.storage or (PARTNER_STORAGE,), settings.transport or (PARTNER_TRANSPORT,)
        partners = () if settings.storage else (PARTNER_STORAGE,)
        partners += () if settings.transport else (PARTNER_TRANSPORT,)
    return _Parts(
        storages=storages,
        transports=transports,
        coordinators=settings.coordinator,
        offset_stores=settings.offset_store,
        authenticators=settings.authenticator,
        partners=partners,
        claims=Path(settings.claims) if claims is None and settings.claims else claims,
        families=settings.families_tested,
        settings=settings,
    )


def _tier(name: str) -> str:
    return next((tier for tier in TIERS if tier.lower() == name.lower()), name)


def _split(values: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of an option that may be given several times; ``default`` when it is not given at all."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip()) if values else default


def _split_urls(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the URLs of an option. A comma within a URL stays: what follows it there is a path and no name."""
    return tuple(part.strip() for value in values for part in _NEXT_URL.split(value) if part.strip())


def _each(
    values: Iterable[str], everything: Iterable[str], resolve: Callable[[str], str] = lambda value: value
) -> tuple[str, ...]:
    found: list[str] = []
    for value in values:
        found += everything if value == "all" else [resolve(value)]
    if not found:
        refuse("an option that names what is to run names nothing; leave it out for all")
    return tuple(dict.fromkeys(found))
