"""The options of ``run`` and ``list``, and the request that they make. Every value is checked before anything runs.

A command that names neither a storage nor a transport tests what ./pyproject.toml says, as pytest does there.
"""

from __future__ import annotations

import os
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
from mqcore_conformance.disk_space import require_room
from mqcore_conformance.plans import CRASH_POINTS, FAMILIES, FLUSH_POLICIES, T1_FAMILIES
from mqcore_conformance.running import (
    STORAGES,
    TIERS,
    TRANSPORTS,
    Request,
    resolve_storage,
    resolve_transport,
    tiers_of,
)

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
        metavar="URL",
        help=f"A URL with {{dir}}, its name, or all; repeatable.{_unless_set('all')}",
    ),
    _names("--transport", "Names or URLs", _unless_set("all")),
    _names("--flush", ", ".join(FLUSH_POLICIES), " [all]"),
    _names(
        "--family",
        f"Families of faults: {', '.join(dict.fromkeys((*FAMILIES, *T1_FAMILIES)))}",
        f" All leaves out {CRASH_POINTS}.{_unless_set('all')}",
    ),
    _names("--tier", ", ".join(TIERS), _unless_set("contract,T0, and T1 for a storage with I/O of its own")),
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
    storages = _each(parts.storages, STORAGES, resolve_storage)
    asked = _split(options["tier"], settings.tiers)
    tiers, t1_for_own_io = tiers_of(
        _each(asked, TIERS, _tier) if asked else (), (url for url in storages if url not in parts.partners)
    )
    request = Request(
        storages=storages,
        transports=_each(parts.transports, TRANSPORTS, resolve_transport),
        partners=parts.partners,
        flushes=_each(_split(options["flush"], ("all",)), FLUSH_POLICIES),
        families=_each(_split(options["family"], parts.families), FAMILIES),
        tiers=tiers,
        t1_for_own_io=t1_for_own_io,
        clauses=tuple(dict.fromkeys(part.upper() for part in _split(options["clause"], ()))),
        cells=options["cell"],
        seeds=tuple(dict.fromkeys(exact)) or range(first, first + (options["seeds"] or settings.seeds)),
        extra_seeds=not exact,
        budget_s=budget_ms / 1000 if budget_ms is not None else None,
        jobs=options["jobs"] or min(64, len(os.sched_getaffinity(0))),
        claims=load_claims(parts.claims) if parts.claims is not None else Claims(),
        claims_path=str(parts.claims or ""),
        check_seconds_max=settings.check_seconds_max,
    )
    if set(request.tiers) - {"T0"}:
        require_room(options["folder_of_data"])
    return request, options["folder_of_data"]


@attrs.frozen(kw_only=True)
class _Parts:
    """What is under test, and its settings in ./pyproject.toml. ``partners``: what only goes with it in cells."""

    storages: tuple[str, ...]
    transports: tuple[str, ...]
    partners: tuple[str, ...] = ()
    claims: Path | None = None
    families: tuple[str, ...] = ("all",)
    settings: SuiteSettings = attrs.field(factory=SuiteSettings)


def _parts(options: Mapping[str, Any]) -> _Parts:
    """Return what is tested: who names no part means those of ./pyproject.toml, with its other settings."""
    storages, claims = options["storage"], options["claims"]
    partners: tuple[str, ...] = ()
    transports = _split(options["transport"], ("all",))
    settings = SuiteSettings() if storages or options["transport"] else read_settings(Path())
    if settings == SuiteSettings():
        return _Parts(storages=storages or ("all",), transports=transports, claims=claims)
    if not settings.storage and not settings.transport:
        storages, transports = ("all",), ("all",)
    else:
        storages, transports = settings.storage or (PARTNER_STORAGE,), settings.transport or (PARTNER_TRANSPORT,)
        partners = () if settings.storage else (PARTNER_STORAGE,)
        partners += () if settings.transport else (PARTNER_TRANSPORT,)
    return _Parts(
        storages=storages,
        transports=transports,
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


def _each(
    values: Iterable[str], everything: Iterable[str], resolve: Callable[[str], str] = lambda value: value
) -> tuple[str, ...]:
    found: list[str] = []
    for value in values:
        found += everything if value == "all" else [resolve(value)]
    if not found:
        refuse("an option that names what is to run names nothing; leave it out for all")
    return tuple(dict.fromkeys(found))
