"""The verb ``conformance explain``: a clause in plain words, how and where it is looked at, what proves it can fail.

The statement itself stands in ``mqcore.guarantees``; nothing here decides a verdict.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from types import MappingProxyType

import attrs
import click

from mqcore.cli.shell import Verb, current, output_options, refuse, write_json, write_line
from mqcore.guarantees import CLAUSES
from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.contract import CHECKS
from mqcore_conformance.running import suggest
from mqcore_conformance.saboteurs import RECORDERS, SABOTEURS

LABEL_WIDTH = 17
COLUMNS_MAX = 110


@attrs.frozen(kw_only=True)
class ClauseInWords:
    """``meaning``: for who uses a broker. ``looked_at``: how the checker finds out. ``where``: in which cells."""

    meaning: str
    looked_at: str
    where: str


_DRAINED = "every cell of T0 and T1: each run ends with a drain that reads every partition from start to end"
_DISK = "cells of a storage with a disk"

EXPLANATIONS: Mapping[str, ClauseInWords] = MappingProxyType(
    {
        "G01": ClauseInWords(
            meaning="A message that was acknowledged is there after every fault that its acknowledgement promised to "
            "survive, unchanged.",
            looked_at="For every acknowledgement the oracle says from its level and from the faults that came later "
            "whether the message had to survive them; if so, it is looked for in what is read at the end of the run.",
            where=_DRAINED + "; faults that take something: kill, power-cut, flush-error, full, mixed, crash-points",
        ),
        "G02": ClauseInWords(
            meaning="Where a policy allows loss, only the newest messages may be missing: no gap below a message that "
            "is there.",
            looked_at="The acknowledged messages of each reign that are missing at the end have to be its last ones.",
            where=_DRAINED + "; flush async and none under power-cut show it best",
        ),
        "G03": ClauseInWords(
            meaning="An asynchronous flush policy states how much a power cut may cost at most; it never costs more.",
            looked_at="What is lost of the acknowledged is counted in messages, bytes and time, against the policy.",
            where="cells with flush async: power-cut, slow, mixed",
        ),
        "G04": ClauseInWords(
            meaning="Nothing is read that was not sent.",
            looked_at="Every message read, by consumers and at the end, has to be one of those sent, by the suite's "
            "own checksum.",
            where=_DRAINED,
        ),
        "G05": ClauseInWords(
            meaning="An offset has one content: all readers see the same message there, today and tomorrow.",
            looked_at="All reads of a partition, epoch and offset are compared with each other and with the receipts.",
            where=_DRAINED + ", and every read of a consumer",
        ),
        "G06": ClauseInWords(
            meaning="A consumer sees messages in order, none twice, and skips none that was acknowledged, unless it is "
            "told so.",
            looked_at="The positions of each consumer are followed through its whole run; a step back or over an "
            "acknowledged message needs a seek, a trim or a reported divergence as its reason.",
            where="cells whose plans have consumers, about two thirds of the seeds of every family",
        ),
        "G07": ClauseInWords(
            meaning="A message that was rejected never appears.",
            looked_at="Nothing that was answered with a rejection may be read, ever.",
            where=_DRAINED + "; full and io-error make rejections",
        ),
        "G08": ClauseInWords(
            meaning="What a consumer has read does not vanish under a fault that the topic's policy survives.",
            looked_at="Every message that a consumer got is looked for at the end, when the oracle says that it had to "
            "survive.",
            where="cells whose plans have consumers; kill, power-cut and mixed",
        ),
        "G09": ClauseInWords(
            meaning="An epoch is one node's, and an old primary acknowledges nothing that the next reign lacks.",
            looked_at="No two nodes may begin a reign of one number; a receipt of an older reign after a newer one "
            "began is looked for in the final drain.",
            where="sets of nodes (--nodes 3): every family; failovers and isolate above all",
        ),
        "G10": ClauseInWords(
            meaning="Once everything is healed, all copies of a log are the same, byte for byte.",
            looked_at="At the end every node's stored bytes are read and compared, log by log.",
            where="sets of nodes in the simulation (--nodes 3 --tier T0): every family",
        ),
        "G11": ClauseInWords(
            meaning="After a failed flush nothing that it was to cover counts as written, even if the next flush "
            "succeeds.",
            looked_at="After each failed flush no acknowledgement, read or notice may rest on bytes that it covered.",
            where=_DISK + ": flush-error, slow with errors, mixed",
        ),
        "G12": ClauseInWords(
            meaning="Damaged bytes are never served; damage is repaired or reported, never passed over.",
            looked_at="Bits are flipped in what was flushed; every read of that range has to be refused with its "
            "range, and a broker whose identity is damaged has to refuse to start.",
            where=_DISK + ": rot, rot-identity",
        ),
        "G13": ClauseInWords(
            meaning="Once the fault is over, the broker works again, soon.",
            looked_at="After healing, a send to every partition and a complete read have to succeed within the bound.",
            where="every cell of T0 and T1",
        ),
        "G14": ClauseInWords(
            meaning="An acknowledgement is not given before what it states has happened.",
            looked_at="Each receipt is held against the appends and flushes recorded before it: a level of disk needs "
            "a flush that covers the message.",
            where="every cell of T0 and T1 in which something is acknowledged",
        ),
        "G15": ClauseInWords(
            meaning="Duplicates come only from retries after an unknown outcome, and never from "
            "an idempotent producer; of two processes of one producer's name only the later one is served.",
            looked_at="Messages that are there twice are traced to the attempts that sent them. Programs take the name "
            "of a producer from one another: nothing that one sends once another was given it is acknowledged.",
            where=_DRAINED + "; network, kill and stop make retries",
        ),
        "G16": ClauseInWords(
            meaning="Where a group goes on is what it has committed last, in the history that it has read.",
            looked_at="Every cursor that a broker states is held against the commits before it, and what came of them; "
            "in the end each is held against the log: one that is not in its history has to be told as such.",
            where="the family cursors of T0, of storages with a disk; offset stores alone",
        ),
        "G17": ClauseInWords(
            meaning="Recovery may crash and begin again as often as it likes: the result is the same.",
            looked_at="The disk at the end of a run is recovered once, twice, and with a crash inside; the logs are "
            "compared byte by byte.",
            where="cells of T0 with a disk, in about a tenth of the seeds",
        ),
        "G18": ClauseInWords(
            meaning="What does not exist or cannot be kept is refused by name, at the start.",
            looked_at="A random unknown option is given, a build is stated that cannot keep its promise, names and "
            "sizes beyond the limits are tried.",
            where="contract checks of every storage and transport",
        ),
        "G19": ClauseInWords(
            meaning="A replica shows its readers nothing that is not committed, and says how old its knowledge is.",
            looked_at="Every answer of a replica is held against the appends of all nodes and against what was "
            "acknowledged so long before as the answer says that its knowledge is old.",
            where="sets of nodes in the simulation (--nodes 3 --tier T0): plans with readers of replicas",
        ),
        "G20": ClauseInWords(
            meaning="No peer and no disk can make the broker use more memory than its limits.",
            looked_at="Readers that stop, streams by the thousand, messages beyond the limit and a full disk are "
            "tried; memory and refusals are watched.",
            where="contract checks of every storage and transport",
        ),
    }
)
"""Explanations of the clauses that are checked, by id."""


WORDS: Mapping[str, str] = MappingProxyType(
    {
        "must_survive": "must_survive: what the oracle of mqcore.guarantees says has to be there, from the level of "
        "each receipt and the faults since; mqcore explain prints the same as a table",
        "final drain": "final drain: at the end of a run everything is read once more, after the last fault",
        "durable mark": "durable mark: how far a log is known to be flushed",
        "stated `survive`": "survive: the faults that a configuration says it has to survive",
    }
)
"""Words of the statements that only this project uses."""


def explain_clause(clause: str) -> list[tuple[str, list[str]]]:
    """Return what there is to say of a clause, as headings with paragraphs."""
    facts = CLAUSES[clause]
    checks = [f"{one.name.replace('_', ' ')} ({one.kind})" for one in CHECKS.values() if one.clause == clause]
    words, checker = EXPLANATIONS[clause], CHECKERS[clause]
    saboteurs = [f"{one.name}: {one.bug} ({one.cell.name})" for one in SABOTEURS if one.clause == clause]
    saboteurs += [
        f"{name}: {' '.join((change.__doc__ or '').split())} (the recorded history is changed)"
        for name, (change, broken) in RECORDERS.items()
        if broken == clause
    ]
    terms = [text for word, text in WORDS.items() if word in facts.statement]
    return [
        ("means", [words.meaning]),
        ("statement", [facts.statement]),
        *([("words", terms)] if terms else []),
        ("looked at", [words.looked_at]),
        ("where", [words.where]),
        ("checker", [f"{checker.__module__}.{checker.__name__}"]),
        ("contract checks", checks or ["none"]),
        ("can fail", saboteurs or ["no saboteur breaks it on the model disk; unit tests of the checker do"]),
    ]


@click.command(
    "explain", cls=Verb, examples=["mqcore conformance explain G11", "mqcore conformance explain --output json G11"]
)
@click.argument("clause")
@output_options
def explain(clause: str) -> None:
    """Tell what a clause means, how and where it is checked, and which bugs prove that the check can fail."""
    wanted = clause.upper()
    facts = CLAUSES.get(wanted) or next((one for one in CLAUSES.values() if one.name == clause.lower()), None)
    if facts is None:
        refuse(f"no clause {clause!r}{suggest(wanted, CLAUSES)}")
    sections = explain_clause(facts.id)
    if current().json:
        write_json({"clause": facts.id, "name": facts.name} | {name.replace(" ", "_"): text for name, text in sections})
        return
    columns = min(COLUMNS_MAX, shutil.get_terminal_size((COLUMNS_MAX, 40)).columns)
    write_line(f"{facts.id} {facts.name}\n")
    for name, paragraphs in sections:
        for number, paragraph in enumerate(paragraphs):
            label = name if number == 0 else ""
            first, others = f"{label:{LABEL_WIDTH}}", " " * LABEL_WIDTH
            write_line(
                textwrap.fill(
                    paragraph, columns, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
                )
            )
