"""What is asked for, and the pieces of work that follow from it: contract checks, and cells by up to 500 seeds.

Composes each storage once to see what it can do; runs nothing. What is wrong with a request is said before it runs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import attrs

from mqcore.abc import Capabilities
from mqcore.errors import ConfigurationError
from mqcore.guarantees import CLAUSES, Level
from mqcore.registry import find, installed
from mqcore_conformance.cells import DISK_FAMILIES, Cell, cells_of, label_of
from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.checkers import NOT_BUILT as CLAUSES_NOT_BUILT
from mqcore_conformance.claims import Claims
from mqcore_conformance.contract import checks_of, part_facts
from mqcore_conformance.plans import CRASH_POINTS, FAMILIES, FLUSH_POLICIES, T1_FAMILIES
from mqcore_conformance.report import NOT_BUILT, NOT_BUILT_YET
from mqcore_conformance.running._fingerprints import made_of
from mqcore_conformance.seeds import ranges_of
from mqcore_conformance.worlds.model import why_not_on_the_model_network
from mqcore_conformance.worlds.processes import why_not_in_processes

STORAGES = ("memory://", "mmap://{dir}", "null://")
TRANSPORTS = ("tcp", "unix", "inproc")
TIERS = ("contract", "T0", "T1")
TIERS_DEFAULT = ("contract", "T0")
PROCESS_PARTNER = "tcp"
"""What a part under test alone meets in T1."""
OWN_IO_FAMILIES = ("kill", "power-cut")
"""What T1 adds by itself for a storage that T0 cannot have, under policies that flush, over one transport: the faults
that levels are claimed against, and no more, since a run takes seconds."""
ALL_FAMILIES = tuple(dict.fromkeys((*FAMILIES, CRASH_POINTS, *T1_FAMILIES)))
SEEDS_PER_PIECE = 500
"""So that long runs use every job, and lose little when they are interrupted."""
PIECES_OF_CELL_MAX = 200
"""So that what is planned stays small, however many seeds there are; beyond it, pieces have more seeds."""
TRANSPORT_SAMPLES = ("{name}://127.0.0.1:0", "{name}://{{dir}}/socket", "{name}://conformance", "{name}://")


@attrs.frozen(kw_only=True)
class Request:
    """What is to be run. ``storages`` are URLs with ``{dir}``; ``transports`` names of mqcore's own, or URLs.

    ``partners``: those of them that only go with others in cells, and are not checked themselves. ``claims_path``:
    where ``claims`` were read. ``check_seconds_max`` overrides what contract checks have for themselves.
    ``extra_seeds``: whether seeds beyond ``seeds`` may be tried in a cell until its fault has bitten once.
    ``t1_for_own_io``: T1 has only the cells that a storage with I/O of its own cannot have in T0.
    """

    storages: tuple[str, ...]
    transports: tuple[str, ...]
    partners: tuple[str, ...] = ()
    flushes: tuple[str, ...] = tuple(FLUSH_POLICIES)
    families: tuple[str, ...] = tuple(FAMILIES)
    tiers: tuple[str, ...] = ("contract", "T0")
    clauses: tuple[str, ...] = ()
    seeds: Sequence[int] = (0, 1)
    extra_seeds: bool = True
    t1_for_own_io: bool = False
    cells: str = ""
    budget_s: float | None = None
    jobs: int = 1
    claims: Claims = attrs.field(factory=Claims)
    claims_path: str = ""
    check_seconds_max: float | None = None

    def __attrs_post_init__(self) -> None:
        for names, allowed, what in (
            (self.flushes, FLUSH_POLICIES, "flush policy"),
            (self.families, ALL_FAMILIES, "fault family"),
            (self.tiers, TIERS, "tier"),
        ):
            for name in names:
                if name not in allowed:
                    raise ConfigurationError(f"no {what} {name!r}{_later(name) or suggest(name, allowed)}")
        for clause in self.clauses:
            if clause in CLAUSES_NOT_BUILT:
                raise ConfigurationError(f"clause {clause} is not checked: {CLAUSES_NOT_BUILT[clause]}")
            if clause not in CHECKERS:
                raise ConfigurationError(f"no clause {clause!r}{suggest(clause, CLAUSES)}")

    def arguments(self) -> Mapping[str, str]:
        """Return what decides which verdicts come out, by option; a report holds the verdicts of one such set."""
        return {
            "--storage": " ".join(self.storages),
            "--transport": ",".join(self.transports),
            "--flush": ",".join(self.flushes),
            "--family": ",".join(self.families),
            "--tier": ",".join(self.tiers) + " for own I/O" * self.t1_for_own_io,
            "--clause": ",".join(self.clauses) or "all",
            "--cell": self.cells or "all",
            "seeds": ranges_of(self.seeds) + ("" if self.extra_seeds else " exactly"),
            **({"in cells only": ",".join(self.partners)} if self.partners else {}),
            **({"seconds of a check": str(self.check_seconds_max)} if self.check_seconds_max else {}),
        }

    def made_of(self) -> Mapping[str, str]:
        """Return what the verdicts are of as it is now: mqcore, each part by its scheme, and the claims."""
        return {**made_of(self.storages, self.transports), "claims": self.claims.digest}


@attrs.frozen(kw_only=True)
class CheckPiece:
    """A contract check of one part. ``kind``: ``storage`` or ``transport``."""

    kind: str
    url: str
    check: str
    clause: str

    @property
    def name(self) -> str:
        """Name of its record."""
        return f"contract/{label_of(self.url)}/{self.check}"


@attrs.frozen(kw_only=True)
class CellPiece:
    """A cell over some seeds: part ``number`` of ``count``. ``why`` it is not run; empty when it is."""

    cell: Cell
    seeds: Sequence[int]
    why: str = ""
    number: int = 1
    count: int = 1

    @property
    def name(self) -> str:
        """Name of its record."""
        return self.cell.name if self.count == 1 else f"{self.cell.name}, part {self.number} of {self.count}"


Piece: TypeAlias = CheckPiece | CellPiece


def _later(name: str) -> str:
    """Return the end of a refusal of what has its place in the matrix and is not built."""
    rows = [row for row in NOT_BUILT if name.lower() in (row.tier.lower(), row.storage, row.transport)]
    return f": {rows[0].what}, {NOT_BUILT_YET}" if rows else ""


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return the end of a refusal: what may have been meant, and all that there is."""
    names = list(allowed)
    if name[:1] == "G" and name[1:].isdecimal():
        name = f"G{int(name[1:]):02}"
    near = difflib.get_close_matches(name.lower(), [one.lower() for one in names], 1, 0.5)
    meant = next((one for one in names if near and one.lower() == near[0]), "")
    return (f"; did you mean {meant!r}? One of " if meant else "; one of ") + ", ".join(names)


def tiers_of(asked: Sequence[str], storages: Iterable[str]) -> tuple[tuple[str, ...], bool]:
    """Return the tiers to run, and whether T1 is among them only for storages with I/O of their own.

    Where none is asked for, such a storage gets T1: without it no fault would meet its levels.
    """
    if asked:
        return tuple(asked), False
    own_io = any(map(has_own_io, storages))
    return (*TIERS_DEFAULT, *(("T1",) if own_io else ())), own_io


# ---- parts ---------------------------------------------------------------------------------------------------------


def resolve_storage(value: str) -> str:
    """Return the URL of a storage given by name or URL; ``ConfigurationError`` in one line for what cannot be run."""
    scheme, colon, rest = value.partition(":")
    names = [one.name for one in installed("storage")]
    if scheme not in names:
        raise ConfigurationError(f"no storage {value!r}{_later(scheme) or suggest(scheme, [*names, 'all'])}")
    find("storage", scheme)
    if not colon:
        samples = [f"{scheme}://{{dir}}", f"{scheme}://"]
        samples = [url for url in STORAGES if url.startswith(f"{scheme}:")] or samples
        value = next((url for url in samples if not _refusal("storage", url)), samples[0])
    refusal = _refusal("storage", value)
    better = f"{scheme}://{{dir}}"
    hint = f"; write '{better}': every check and cell gets a fresh folder" if not _refusal("storage", better) else ""
    if "{dir}" in value:
        hint = ""
    elif rest.lstrip("/").partition("?")[0] and hint:
        raise ConfigurationError(f"storage {value!r} is one folder for all{hint} (--dir says on which disk)")
    if refusal:
        raise ConfigurationError(f"storage {value!r} cannot be composed: {refusal}{hint}")
    return value


def resolve_transport(value: str) -> str:
    """Return a transport given by name or URL, as a name when it is mqcore's own; refuses as ``resolve_storage``."""
    scheme, colon, _ = value.partition(":")
    names = [one.name for one in installed("transports")]
    if scheme not in names:
        raise ConfigurationError(f"no transport {value!r}{_later(scheme) or suggest(scheme, [*names, 'all'])}")
    find("transports", scheme)
    if not colon and value in TRANSPORTS:
        return value
    refusal = ""
    for url in [value] if colon else [sample.format(name=scheme) for sample in TRANSPORT_SAMPLES]:
        found = _refusal("transport", url)
        if not found:
            return url
        refusal = refusal or found
    hint = "" if colon else f"; give its URL, such as '{scheme}://127.0.0.1:0'"
    raise ConfigurationError(f"transport {value!r} cannot be composed: {refusal}{hint}")


def _refusal(kind: str, url: str) -> str:
    """Return why a URL is wrongly written, if it is; what is wrong with the part itself is for its checks to say."""
    return part_facts(kind, url).refusal


# ---- cells ---------------------------------------------------------------------------------------------------------


def pieces_of(request: Request) -> list[Piece]:
    """Return everything that a run does, in its order; ``ConfigurationError`` when that is nothing."""
    pieces: list[Piece] = list(_checks(request)) if "contract" in request.tiers else []
    count = len(request.seeds)
    share = max(SEEDS_PER_PIECE, -(-count // PIECES_OF_CELL_MAX))
    for cell, why in plan_cells(request):
        shares = [request.seeds[begin : begin + share] for begin in range(0, count, share)]
        if why or cell.family == CRASH_POINTS:
            shares = [request.seeds]
        pieces += [
            CellPiece(cell=cell, seeds=seeds, why=why, number=number, count=len(shares))
            for number, seeds in enumerate(shares, 1)
        ]
    if not pieces:
        wanted = f"no cell's name contains {request.cells!r}" if request.cells else "nothing is asked for"
        raise ConfigurationError(f"{wanted}; 'mqcore conformance list' prints every name")
    return pieces


def _checks(request: Request) -> Iterator[CheckPiece]:
    for kind, urls in (("storage", request.storages), ("transport", request.transports)):
        for url in urls:
            for check in checks_of(kind) if url not in request.partners else ():
                piece = CheckPiece(kind=kind, url=url, check=check.name, clause=check.clause)
                if request.cells in piece.name and (not request.clauses or check.clause in request.clauses):
                    yield piece


def plan_cells(request: Request) -> Iterator[tuple[Cell, str]]:
    """Give every cell of a request with the reason why it is not run (empty when it is)."""
    every = set(FAMILIES) <= set(request.families)
    families = {
        "T0": [family for family in request.families if family in (*FAMILIES, CRASH_POINTS)],
        "T1": [family for family in T1_FAMILIES if every or family in request.families],
    }
    for tier in request.tiers:
        storages, flushes, names = request.storages, request.flushes, families.get(tier, [])
        # inproc, where it only goes with others, does not leave its process
        urls = [PROCESS_PARTNER if tier == "T1" and url in request.partners else url for url in request.transports]
        transports = list(dict.fromkeys(url.partition(":")[0] for url in urls))
        if tier == "T1" and request.t1_for_own_io:
            storages = tuple(filter(has_own_io, storages))
            names = [name for name in names if name in OWN_IO_FAMILIES]
            flushes = tuple(flush for flush in flushes if flush != "none") or flushes
            transports = [PROCESS_PARTNER] if PROCESS_PARTNER in transports else transports[:1]
        for cell in cells_of(tier, storages, transports, flushes, names):
            if request.cells in cell.name:
                yield cell, _why_not(cell)


def has_own_io(storage: str) -> bool:
    """Whether the storage at a URL keeps bytes by other ways than the ports, so that no simulation can hold it."""
    facts = part_facts("storage", storage).capabilities
    return isinstance(facts, Capabilities) and not facts.simulable and facts.append_level > Level.NONE


def _why_not(cell: Cell) -> str:
    facts = part_facts("storage", cell.storage)
    if not isinstance(facts.capabilities, Capabilities):
        return f"the storage cannot be composed: {facts.refusal or facts.problem}"
    if cell.tier == "T1":
        return why_not_in_processes(cell.transport, cell.flush, cell.family, facts.capabilities)
    if not facts.capabilities.simulable:
        return f"own I/O: it does not go through the ports; {_instead_of_simulated(cell, facts.capabilities)}"
    return _why_not_simulated(cell, facts.capabilities)


def _instead_of_simulated(cell: Cell, capabilities: Capabilities) -> str:
    """Say which other tier looks at a cell that cannot be simulated, if one does."""
    if cell.family not in T1_FAMILIES:
        return "no tier that is built has this fault for it"
    transport = PROCESS_PARTNER if cell.transport == "inproc" else cell.transport
    why = why_not_in_processes(transport, cell.flush, cell.family, capabilities)
    return f"not in T1 either: {why}" if why else f"T1/{label_of(cell.storage)}/{transport} has this fault"


def _why_not_simulated(cell: Cell, capabilities: Capabilities) -> str:
    if capabilities.append_level is Level.NONE and cell.family != "none":
        return "it keeps nothing, so that no fault can take anything"
    if capabilities.flush_level < Level.DISK:
        if cell.flush != "none":
            return f"refused at composition: a flush reaches {capabilities.flush_level.label} (probed by G18)"
        if cell.family in DISK_FAMILIES:
            return "it has no disk"
    if cell.family == "rot" and cell.flush == "none":
        return "nothing is flushed under this policy, so that no damage can be proved"
    if cell.transport == "inproc" and cell.family == "network":
        return "inproc has no network"
    return why_not_on_the_model_network(cell.transport)
