"""What is asked for, and the pieces of work that follow from it: contract checks, and cells by up to 500 seeds.

Composes each storage once to see what it can do; runs nothing. What is wrong with a request is said before it runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import attrs

from mqcore.abc import Capabilities, TransportCapabilities
from mqcore.errors import ConfigurationError
from mqcore.guarantees import CLAUSES, Level
from mqcore_conformance.cells import DISK_FAMILIES, Cell, cells_of, label_of
from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.claims import Claims
from mqcore_conformance.contract import checks_of, part_facts
from mqcore_conformance.folders import member_folders
from mqcore_conformance.plans import (
    CRASH_POINTS,
    EVERY_FAMILY,
    FAMILIES,
    FLUSH_POLICIES,
    MEMBER_FAMILIES,
    SET_FAMILIES,
    SET_REPLICATIONS,
    SIMULATED_SET_FAMILIES,
    T1_FAMILIES,
)
from mqcore_conformance.running._fingerprints import made_of
from mqcore_conformance.running._resolve import STORAGES, later, suggest
from mqcore_conformance.seeds import ranges_of
from mqcore_conformance.worlds.model import why_not_on_the_model_network
from mqcore_conformance.worlds.processes import SET_COORDINATORS, why_not_a_set, why_not_in_processes

TIERS = ("contract", "T0", "T1")
TIERS_DEFAULT = ("contract", "T0")
NODES_MAX = 7
PROCESS_PARTNER = "tcp"
"""What a part under test alone meets in T1."""
OWN_IO_FAMILIES = ("kill", "kill-at-call", "power-cut", "flush-error", "full")
SIMULABLE_FAMILIES = ("kill", "power-cut")
NETWORK_SET_FAMILIES = ("isolate", "cut-peers", "asymmetric-cut", "flap")
OWN_SOCKETS_FAMILIES = ("none", "kill", "proxy-cut", "proxy-stall")
"""What T1 adds by itself: for a storage that T0 cannot have, under policies that flush; for an author's storage that it
can have, on real files, under the first policy; for a transport that T0 cannot have. A run takes seconds: no more."""
SEEDS_PER_PIECE = 500
"""So that long runs use every job, and lose little when they are interrupted."""
PIECES_OF_CELL_MAX = 200
"""So that what is planned stays small, however many seeds there are; beyond it, pieces have more seeds."""


@attrs.frozen(kw_only=True)
class Request:
    """What is to be run. ``storages`` are URLs with ``{dir}``; ``transports`` names of mqcore's own, or URLs.

    ``coordinators``, ``offset_stores``, ``authenticators``: names or URLs, which contract checks are for and no cell.
    ``servers``: ``MODULE:CLASS`` of what controls theirs. ``partners``: storages and transports that only go with
    others in cells, and are not checked themselves. ``claims_path``: where ``claims`` were read.
    ``check_seconds_max`` overrides what contract checks have for themselves. ``extra_seeds``: whether seeds beyond
    ``seeds`` may be tried in a cell until its fault has struck once. ``t1_by_default``: T1 has the few cells only that
    parts of an author get unasked.
    ``nodes`` above 1: cells are of sets of so many, under ``replication``, and of no broker that is alone; those of T1
    have ``set_coordinator``, empty: a file.
    """

    storages: tuple[str, ...]
    transports: tuple[str, ...]
    coordinators: tuple[str, ...] = ()
    offset_stores: tuple[str, ...] = ()
    authenticators: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    flushes: tuple[str, ...] = tuple(FLUSH_POLICIES)
    families: tuple[str, ...] = tuple(FAMILIES)
    tiers: tuple[str, ...] = ("contract", "T0")
    clauses: tuple[str, ...] = ()
    seeds: Sequence[int] = (0, 1)
    extra_seeds: bool = True
    t1_by_default: bool = False
    cells: str = ""
    budget_s: float | None = None
    jobs: int = 1
    claims: Claims = attrs.field(factory=Claims)
    claims_path: str = ""
    check_seconds_max: float | None = None
    nodes: int = 1
    replication: str = "none"
    set_coordinator: str = ""

    def __attrs_post_init__(self) -> None:
        for names, allowed, what in (
            (self.flushes, FLUSH_POLICIES, "flush policy"),
            (self.families, EVERY_FAMILY, "fault family"),
            (self.tiers, TIERS, "tier"),
        ):
            for name in names:
                if name not in allowed:
                    raise ConfigurationError(f"no {what} {name!r}{later(name) or suggest(name, allowed)}")
        self._check_set()
        for clause in self.clauses:
            if clause not in CHECKERS:
                raise ConfigurationError(f"no clause {clause!r}{suggest(clause, CLAUSES)}")

    @property
    def clauses_of_cells(self) -> tuple[str, ...]:
        """Those of ``clauses`` that a history is judged by; checks of a part alone are about the others."""
        return tuple(clause for clause in self.clauses if clause in CHECKERS)

    def _check_set(self) -> None:
        if self.replication not in ("none", *SET_REPLICATIONS):
            raise ConfigurationError(
                f"no replication {self.replication!r} of cells{suggest(self.replication, SET_REPLICATIONS)}"
            )
        if not 1 <= self.nodes <= NODES_MAX:
            raise ConfigurationError(f"{self.nodes} nodes: a set here has 2 to {NODES_MAX}, a broker alone is 1")
        if self.set_coordinator and self.set_coordinator not in SET_COORDINATORS:
            why = suggest(self.set_coordinator, ("file", *SET_COORDINATORS))
            raise ConfigurationError(f"no coordinator {self.set_coordinator!r} of cells{why}")
        if self.nodes == 1 and self.replication != "none":
            raise ConfigurationError(
                f"1 node and replication {self.replication}: a broker alone replicates nothing; write "
                f"--nodes 3 --replication {self.replication}, or neither"
            )

    def arguments(self) -> Mapping[str, str]:
        """Return what decides which verdicts come out, by option; a report holds the verdicts of one such set."""
        return {
            "--storage": " ".join(self.storages),
            "--transport": ",".join(self.transports),
            **({"--coordinator": " ".join(self.coordinators)} if self.coordinators else {}),
            **({"--offset-store": " ".join(self.offset_stores)} if self.offset_stores else {}),
            **({"--authenticator": " ".join(self.authenticators)} if self.authenticators else {}),
            **({"--server": " ".join(self.servers)} if self.servers else {}),
            "--flush": ",".join(self.flushes),
            "--family": ",".join(self.families),
            **({"--nodes": str(self.nodes), "--replication": self.replication} if self.nodes > 1 else {}),
            **({"--set-coordinator": self.set_coordinator} if self.set_coordinator else {}),
            "--tier": ",".join(self.tiers) + " (T1 by default)" * self.t1_by_default,
            "--clause": ",".join(self.clauses) or "all",
            "--cell": self.cells or "all",
            "seeds": ranges_of(self.seeds) + ("" if self.extra_seeds else " exactly"),
            **({"in cells only": ",".join(self.partners)} if self.partners else {}),
            **({"seconds of a check": str(self.check_seconds_max)} if self.check_seconds_max else {}),
        }

    def made_of(self) -> Mapping[str, str]:
        """Return what the verdicts are of as it is now: mqcore, each part by its scheme, and the claims."""
        parts = {
            "storage": self.storages,
            "transports": self.transports,
            "coordinators": self.coordinators,
            "offset_stores": self.offset_stores,
            "authenticators": self.authenticators,
        }
        return {**made_of(parts), "claims": self.claims.digest}


@attrs.frozen(kw_only=True)
class CheckPiece:
    """A contract check of one part. ``kind``: ``storage``, ``transport``, ``coordinator``, ``offset_store``,
    ``authenticator``.
    """

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


def tiers_of(
    asked: Sequence[str], storages: Iterable[str], transports: Iterable[str] = ()
) -> tuple[tuple[str, ...], bool]:
    """Return the tiers to run, and whether T1 has the few cells only that parts of an author get unasked.

    A storage that is none of mqcore's own meets real files there; one with I/O of its own would meet no fault without.
    """
    if asked:
        return tuple(asked), False
    own = any(map(_is_of_author, storages)) or any(map(has_own_sockets, transports))
    return (*TIERS_DEFAULT, *(("T1",) if own else ())), own


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
    parts = (
        ("storage", request.storages),
        ("transport", request.transports),
        ("coordinator", request.coordinators),
        ("offset_store", request.offset_stores),
        ("authenticator", request.authenticators),
    )
    for kind, urls in parts:
        for url in urls:
            for check in checks_of(kind) if url not in request.partners else ():
                piece = CheckPiece(kind=kind, url=url, check=check.name, clause=check.clause)
                if request.cells in piece.name and (not request.clauses or check.clause in request.clauses):
                    yield piece


def plan_cells(request: Request) -> Iterator[tuple[Cell, str]]:
    """Give every cell of a request with the reason why it is not run (empty when it is)."""
    if request.clauses and not request.clauses_of_cells:
        return
    cells = [cell for tier in request.tiers for cell in _cells_of_tier(request, tier) if request.cells in cell.name]
    planned = {(cell.storage, cell.flush, cell.family) for cell in cells if cell.tier == "T1"}
    for cell in cells:
        yield cell, _why_not(cell, planned)


def _cells_of_tier(request: Request, tier: str) -> Iterator[Cell]:
    every = set(FAMILIES) <= set(request.families)
    families = {
        "T0": [family for family in request.families if family in (*FAMILIES, *MEMBER_FAMILIES, CRASH_POINTS)],
        "T1": [family for family in T1_FAMILIES if every or family in request.families],
    }.get(tier, [])
    # inproc, where it only goes with others, does not leave its process
    urls = [PROCESS_PARTNER if tier == "T1" and url in request.partners else url for url in request.transports]
    transports = list(dict.fromkeys(url.partition(":")[0] for url in urls))
    if request.nodes > 1:
        of_sets = {"T0": SIMULATED_SET_FAMILIES, "T1": SET_FAMILIES}.get(tier, {})
        chosen = [family for family in of_sets if every or family in request.families]
        for cell in cells_of(tier, request.storages, transports, request.flushes, chosen):
            coordinator = request.set_coordinator if tier == "T1" else ""
            yield attrs.evolve(cell, nodes=request.nodes, replication=request.replication, coordinator=coordinator)
    elif tier == "T1" and request.t1_by_default:
        yield from _cells_by_default(request, transports, families)
    else:
        yield from cells_of(tier, request.storages, transports, request.flushes, families)
        if tier == "T0" and every:
            arrays = [storage for storage in request.storages if has_members(storage)]
            yield from cells_of(tier, arrays, transports, request.flushes, MEMBER_FAMILIES)


def _cells_by_default(request: Request, transports: list[str], families: list[str]) -> Iterator[Cell]:
    """Give the cells of T1 that parts of an author get unasked: each costs seconds, so that they are few."""
    flushes = [flush for flush in request.flushes if flush != "none"] or list(request.flushes)
    for storage in (url for url in request.storages if url not in request.partners):
        own_io = has_own_io(storage)
        if own_io or _is_of_author(storage):
            names = OWN_IO_FAMILIES if own_io else SIMULABLE_FAMILIES
            chosen = [family for family in families if family in names]
            over = [PROCESS_PARTNER] if PROCESS_PARTNER in transports else transports[:1]
            yield from cells_of("T1", [storage], over, flushes if own_io else flushes[:1], chosen)
    for url in request.transports:
        if url not in request.partners and has_own_sockets(url):
            chosen = [family for family in families if family in OWN_SOCKETS_FAMILIES]
            yield from cells_of("T1", request.storages[:1], [url.partition(":")[0]], flushes[:1], chosen)


def has_own_io(storage: str) -> bool:
    """Whether the storage at a URL keeps bytes by other ways than the ports, so that no simulation can hold it."""
    facts = part_facts("storage", storage).capabilities
    return isinstance(facts, Capabilities) and not facts.simulable and facts.append_level > Level.NONE


def has_members(storage: str) -> bool:
    """Whether the storage at a URL claims to survive the loss of one of the folders that the URL names."""
    facts = part_facts("storage", storage).capabilities
    survives = isinstance(facts, Capabilities) and facts.member_losses_survived > 0
    return survives and bool(member_folders(storage, "/data"))


def has_own_sockets(transport: str) -> bool:
    """Whether a transport does not take its sockets from Trio, so that no model network can stand in."""
    facts = part_facts("transport", transport).capabilities
    return isinstance(facts, TransportCapabilities) and not facts.simulable


def _is_of_author(storage: str) -> bool:
    """Whether a storage is none of mqcore's own, and keeps bytes that outlive its process."""
    facts = part_facts("storage", storage).capabilities
    keeps = isinstance(facts, Capabilities) and max(facts.append_level, facts.flush_level) >= Level.PAGE_CACHE
    return keeps and storage.partition(":")[0] not in {url.partition(":")[0] for url in STORAGES}


def _why_not(cell: Cell, planned: Collection[tuple[str, str, str]]) -> str:
    """``planned``: storage, flush and family of the cells of T1 that are asked for, too."""
    facts = part_facts("storage", cell.storage)
    if not isinstance(facts.capabilities, Capabilities):
        return f"the storage cannot be composed: {facts.refusal or facts.problem}"
    if cell.nodes > 1:
        if cell.tier == "T0":
            return _why_not_a_simulated_set(cell, facts.capabilities)
        return why_not_a_set(cell.transport, cell.flush, cell.family, facts.capabilities, cell.coordinator)
    if cell.tier == "T1":
        return why_not_in_processes(cell.transport, cell.flush, cell.family, facts.capabilities)
    if not facts.capabilities.simulable:
        return f"own I/O: it does not go through the ports; {_instead_of_simulated(cell, facts.capabilities, planned)}"
    return _why_not_simulated(cell, facts.capabilities)


def _instead_of_simulated(cell: Cell, capabilities: Capabilities, planned: Collection[tuple[str, str, str]]) -> str:
    """Say which other tier looks at a cell that cannot be simulated, if one does."""
    if cell.family not in T1_FAMILIES:
        return "no tier that is built has this fault for it"
    transport = PROCESS_PARTNER if cell.transport == "inproc" else cell.transport
    if why := why_not_in_processes(transport, cell.flush, cell.family, capabilities):
        return f"not in T1 either: {why}"
    asked = (cell.storage, cell.flush, cell.family) in planned
    return "T1 has this fault for it" if asked else "T1 has this fault for it, and was not asked for (--tier T1)"


def _why_not_a_simulated_set(cell: Cell, capabilities: Capabilities) -> str:
    if not capabilities.simulable:
        return "own I/O: it does not go through the ports; T1 runs it (--tier T1)"
    if capabilities.flush_level < Level.DISK:
        return "what it keeps goes with its process: no kill would leave a set anything"
    if cell.family in ("flush-error", "rot") and cell.flush == "none":
        return "nothing is flushed under this policy"
    if cell.transport == "inproc" and cell.family in NETWORK_SET_FAMILIES:
        return "inproc has no network"
    return why_not_on_the_model_network(cell.transport)


def _why_not_simulated(cell: Cell, capabilities: Capabilities) -> str:
    if capabilities.append_level is Level.NONE and cell.family != "none":
        return "it keeps nothing, so that no fault can take anything"
    if capabilities.flush_level < Level.DISK:
        if cell.flush != "none":
            return f"refused at composition: a flush reaches {capabilities.flush_level.label} (probed by G18)"
        if cell.family in DISK_FAMILIES:
            return "it has no disk"
    if cell.family in MEMBER_FAMILIES and not has_members(cell.storage):
        return "it claims no loss of a member, or its URL names fewer than two folders with {dir}"
    if cell.family == "rot" and cell.flush == "none":
        return "nothing is flushed under this policy, so that no damage can be proved"
    if cell.transport == "inproc" and cell.family == "network":
        return "inproc has no network"
    return why_not_on_the_model_network(cell.transport)
