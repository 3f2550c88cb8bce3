"""What the author of a part states: what is tested, what it claims, which failures are known.

Read from ``[tool.mqcore.conformance]`` of the author's pyproject.toml and from the claims file that it names. A clause
is never left out in silence: only ``[[xfail]]`` with a reason and an issue changes how it counts. Every mistake in
either file is one line that names file, key and remedy.
"""

from __future__ import annotations

import fnmatch
import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs

from mqcore.errors import ConfigurationError
from mqcore.guarantees import Level
from mqcore.registry import structure_options
from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.children.tracebacks import printable
from mqcore_conformance.plans import CRASH_POINTS, FAMILIES, T1_FAMILIES
from mqcore_conformance.verdicts import Status

__all__ = [
    "PARTNER_STORAGE",
    "PARTNER_TRANSPORT",
    "SEEDS_MAX",
    "Claimed",
    "ClaimedOfCoordinator",
    "ClaimedOfOffsetStore",
    "ClaimedOfStorage",
    "ClaimedOfTransport",
    "Claims",
    "KnownFailure",
    "SuiteSettings",
    "find_settings",
    "load_claims",
    "read_settings",
]

T = TypeVar("T")
FILE_BYTES_MAX = 1024 * 1024
TABLE = "tool.mqcore.conformance"
TIERS = ("contract", "T0", "T1")
SEEDS_MAX = 1_000_000
"""Of one cell in one run."""
FAMILIES_DEFAULT = ("none", "kill", "power-cut", "flush-error", "full", "rot", "mixed")
PARTNER_STORAGE, PARTNER_TRANSPORT = "mmap://{dir}", "inproc"
"""What a part of an author meets in cells when only the other kind is under test."""


def _says_something(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not value.strip():
        raise ValueError(f"{attribute.name} must say something")


def _is_clause(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if value not in CHECKERS:
        raise ValueError(f"no clause {value!r}; one of {', '.join(CHECKERS)}")


def _are_among(*names: str) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], values: tuple[str, ...]) -> None:
        for value in values:
            if value not in names:
                raise ValueError(f"{attribute.name}: no {value!r}; one of {', '.join(names)}")

    return check


_LEVELS = tuple(level.label for level in Level)
_level = attrs.validators.optional(attrs.validators.in_(_LEVELS))
_count = attrs.validators.optional(attrs.validators.ge(0))


@attrs.frozen(kw_only=True)
class KnownFailure:
    """A clause that is known to fail: in which cells (a pattern), why, and where that is followed."""

    clause: str = attrs.field(validator=_is_clause)
    reason: str = attrs.field(validator=_says_something)
    issue: str = attrs.field(validator=_says_something)
    cell: str = attrs.field(default="*", validator=_says_something)

    def is_about(self, clause: str, cell: str) -> bool:
        """Whether it says that this clause fails in this cell."""
        return self.clause == clause and fnmatch.fnmatchcase(cell, self.cell)


@attrs.frozen(kw_only=True)
class ClaimedOfStorage:
    """What a storage claims; compared with what it declares. Unset: whatever it declares."""

    append_level: str | None = attrs.field(default=None, validator=_level)
    flush_level: str | None = attrs.field(default=None, validator=_level)
    member_losses_survived: int | None = attrs.field(default=None, validator=_count)
    proves_durable_end: bool | None = None
    append_bytes_max: int | None = attrs.field(default=None, validator=_count)
    log_name_bytes_max: int | None = attrs.field(default=None, validator=_count)
    logs_max: int | None = attrs.field(default=None, validator=_count)
    simulable: bool | None = None


@attrs.frozen(kw_only=True)
class ClaimedOfTransport:
    """The same of a transport."""

    simulable: bool | None = None
    half_close: bool | None = None
    multiplexed: bool | None = None
    local_only: bool | None = None
    datagrams: bool | None = None
    silence_ms: int | None = attrs.field(default=None, validator=_count)
    streams_max: int | None = attrs.field(default=None, validator=_count)


@attrs.frozen(kw_only=True)
class ClaimedOfCoordinator:
    """The same of a coordinator."""

    value_bytes_max: int | None = attrs.field(default=None, validator=_count)
    one_host: bool | None = None
    durable: bool | None = None
    simulable: bool | None = None


@attrs.frozen(kw_only=True)
class ClaimedOfOffsetStore:
    """The same of an offset store."""

    commit_cursors_max: int | None = attrs.field(default=None, validator=_count)
    durable: bool | None = None
    one_host: bool | None = None
    simulable: bool | None = None


@attrs.frozen(kw_only=True)
class Claimed:
    """The table ``[claims]``: a table for each kind of part, so that none speaks for another."""

    storage: ClaimedOfStorage = attrs.field(factory=ClaimedOfStorage)
    transport: ClaimedOfTransport = attrs.field(factory=ClaimedOfTransport)
    coordinator: ClaimedOfCoordinator = attrs.field(factory=ClaimedOfCoordinator)
    offset_store: ClaimedOfOffsetStore = attrs.field(factory=ClaimedOfOffsetStore)


@attrs.frozen(kw_only=True)
class Claims:
    """A claims file."""

    claims: Claimed = attrs.field(factory=Claimed)
    xfail: tuple[KnownFailure, ...] = ()

    def judge(self, clause: str, cell: str, status: Status) -> Status:
        """Return what ``status`` counts as: a known failure is XFAIL, one that passes is XPASS."""
        if not any(one.is_about(clause, cell) for one in self.xfail):
            return status
        if status in (Status.FAIL, Status.LIVENESS):
            return Status.XFAIL
        return Status.XPASS if status is Status.PASS else status

    def out_of_date(self, clause: str, cell: str, path: str = "") -> str:
        """Return what to do about a known failure that passes."""
        number, known = next((number, one) for number, one in enumerate(self.xfail, 1) if one.is_about(clause, cell))
        return (
            f"{clause} holds, {path or 'the claims file'}, [[xfail]] {number} (cell {known.cell!r}) says that it "
            "fails: remove the entry, or narrow its cell"
        )

    def about_nothing(self, run: Iterable[tuple[str, str]]) -> list[str]:
        """Return each known failure that is about none of the clauses and cells of a run, in words."""
        left = dict(enumerate(self.xfail, 1))
        for clause, cell in run:
            left = {number: one for number, one in left.items() if not one.is_about(clause, cell)}
        return [f"[[xfail]] {number} (clause {one.clause}, cell {one.cell!r})" for number, one in left.items()]

    def differences(self, kind: str, capabilities: object) -> list[str]:
        """Return each claim about a part of ``kind`` that differs from its declared capabilities."""
        found = []
        for name, claimed in attrs.asdict(getattr(self.claims, kind)).items():
            if claimed is None:
                continue
            declared = getattr(capabilities, name)
            declared = getattr(declared, "label", declared)
            if claimed != declared:
                found.append(f"claimed {name} = {claimed!r}, the part declares {declared!r}")
        return found

    @property
    def digest(self) -> str:
        """A few letters that change when anything that is claimed changes; ``none`` when nothing is."""
        if self == Claims():
            return "none"
        return hashlib.blake2b(repr(self).encode(), digest_size=4).hexdigest()


@attrs.frozen(kw_only=True)
class SuiteSettings:
    """``[tool.mqcore.conformance]``: what the suite tests in an author's repository.

    ``storage``, ``transport``, ``coordinator``, ``offset_store``: URLs with ``{dir}``, one or several;
    ``authenticator``: names. ``servers``: ``MODULE:CLASS`` of servers that the suite may harm (``ServerControl``) and
    of users of authenticators (``LoginControl``). ``claims``: path of the claims file, from the folder of
    pyproject.toml. ``tiers``: empty for those that suit the parts. ``check_seconds_max``: time limit of
    one contract check, for slow parts.
    """

    storage: tuple[str, ...] = ()
    transport: tuple[str, ...] = ()
    coordinator: tuple[str, ...] = ()
    offset_store: tuple[str, ...] = ()
    authenticator: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    claims: str = ""
    seeds: int = attrs.field(default=2, validator=[attrs.validators.ge(1), attrs.validators.le(SEEDS_MAX)])
    tiers: tuple[str, ...] = attrs.field(default=(), validator=_are_among(*TIERS))
    families: tuple[str, ...] = attrs.field(
        default=(), validator=_are_among(*dict.fromkeys((*FAMILIES, CRASH_POINTS, *T1_FAMILIES)))
    )
    check_seconds_max: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.gt(0))
    )

    @property
    def families_tested(self) -> tuple[str, ...]:
        """The families that are named, else those of an author's every day."""
        return self.families or tuple(dict.fromkeys((*FAMILIES_DEFAULT, *T1_FAMILIES)))


def load_claims(path: Path) -> Claims:
    """Return the claims of a TOML file; ``ConfigurationError`` names the file, the key and what is allowed."""
    table = _read_toml(path, "a claims file has a table [claims.storage], or of another kind, and [[xfail]]")
    return _structured(Claims, table, str(path))


def read_settings(root: Path) -> SuiteSettings:
    """Return the settings in the pyproject.toml of ``root``; the defaults when there are none."""
    path = root / "pyproject.toml"
    table = _table_of(path) if path.exists() else None
    if table is None:
        return SuiteSettings()
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: {TABLE} is no table; write [{TABLE}]")
    keys = ("storage", "transport", "coordinator", "offset_store", "authenticator", "servers", "tiers", "families")
    for key in keys:
        if isinstance(table.get(key), str):
            table[key] = [table[key]]
    return _structured(SuiteSettings, table, f"{path}, [{TABLE}]")


def find_settings(*places: Path) -> Path | None:
    """Return the nearest folder at or above one of ``places`` whose pyproject.toml has the table, if any does."""
    for place in places:
        for folder in (place.absolute(), *place.absolute().parents):
            path = folder / "pyproject.toml"
            if path.is_file() and _table_of(path) is not None:
                return folder
    return None


def _table_of(path: Path) -> Any:
    found: Any = _read_toml(path, f"the suite reads [{TABLE}] there")
    for name in TABLE.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _read_toml(path: Path, remedy: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}; {remedy}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigurationError(f"{path}: larger than {FILE_BYTES_MAX} bytes; {remedy}")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not valid TOML: {printable(str(error))}; {remedy}") from None


def _structured(cls: type[T], table: Mapping[str, object], where: str) -> T:
    try:
        return structure_options(cls, table, where)
    except ConfigurationError as error:
        raise ConfigurationError(printable(str(error))[:600]) from None
