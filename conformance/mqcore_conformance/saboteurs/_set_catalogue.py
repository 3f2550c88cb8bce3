"""The list for sets: every saboteur of several nodes with its clause, its cell, and the plan that shows it.

The bugs are those of docs/design/guarantees.md, section 8, that only a set can have. Not planted:

- check epoch, await, append (BookKeeper #4701): a log is closed with its term, and what the term wrote lies below the
  next one's first position, so that two checks would have to be wrong at once;
- a truncation that a crash undoes (RocketMQ #10666): what comes back is of a reign that the next report names, and is
  cut again; a power cut costs the node its incarnation, so that it is not elected meanwhile;
- a policy lowered locally on a zombie, a replica that trims by its own clock: plans have no caps, and those of sets
  no retention;
- a copy that begins after a trim, and does not know the producers of what is gone: what it stores twice no drain has
  twice (tests/broker/test_producers_after_retention.py);
- a retry of what has rotted that a start takes for a new batch: it is there twice only once it was mended, which a plan
  cannot bring about between the two (tests/log/test_producers_of_rot.py).
"""

from __future__ import annotations

from mqcore_conformance.saboteurs import _broker as broker
from mqcore_conformance.saboteurs import _kept as kept
from mqcore_conformance.saboteurs import _log as log
from mqcore_conformance.saboteurs import _set_shapes as shapes
from mqcore_conformance.saboteurs import _sets as sets
from mqcore_conformance.saboteurs import _short_metadata as short
from mqcore_conformance.saboteurs._model import Saboteur

# fmt: off
SETS = (
    Saboteur(
        name="older-cursor-taken", clause="G16", flush="sync", family="cursors", nodes=3, transport="tcp",
        make=kept.older_cursors_taken,
    ),
    Saboteur(
        name="old-epoch-accepted", clause="G15", flush="sync", family="names", nodes=3, transport="tcp",
        make=kept.old_epoch_accepted, shape=shapes.a_name_is_taken_before_a_failover,
    ),
    Saboteur(
        name="shortened-without-a-topic", clause="G10", flush="sync", family="topics", nodes=3, transport="tcp",
        make=short.topics_left_out, shape=shapes.a_failover_while_topics_come_and_go,
    ),
    Saboteur(
        name="shortened-without-cursors", clause="G16", flush="sync", family="topics", nodes=3, transport="tcp",
        make=short.cursors_left_out, shape=shapes.a_failover_while_topics_come_and_go,
    ),
    Saboteur(
        name="shortened-without-deletions", clause="G10", flush="sync", family="topics", nodes=3, transport="tcp",
        make=short.deletions_left_out, shape=shapes.nodes_are_away_while_topics_go,
    ),
    Saboteur(
        name="replicas-not-awaited", clause="G14", flush="sync", family="none", nodes=3, transport="tcp",
        make=sets.replicas_not_awaited, shape=shapes.quiet,
    ),
    Saboteur(
        name="anybody-counts", clause="G14", flush="sync", family="cut-peers", nodes=3, transport="tcp",
        make=sets.anybody_counts, shape=shapes.cut_off("cut-peers", "n2"),
    ),
    Saboteur(
        name="copies-are-a-hint", clause="G14", flush="sync", family="cut-peers", nodes=3, transport="tcp",
        make=sets.copies_are_a_hint, shape=shapes.cut_off("cut-peers", "n1"),
    ),
    Saboteur(
        name="change-taken-for-done", clause="G01", flush="sync", family="coordinator-cut", nodes=3, transport="tcp",
        make=sets.change_taken_for_done, shape=shapes.the_set_changes_unseen,
    ),
    Saboteur(
        name="joins-too-early", clause="G01", flush="sync", family="cut-peers", nodes=3, transport="tcp",
        make=sets.joins_too_early, shape=shapes.a_replica_joins_and_the_others_die,
    ),
    Saboteur(
        name="replica-reports-page-cache", clause="G14", flush="sync", family="none", nodes=3, transport="tcp",
        make=sets.replica_reports_page_cache, shape=shapes.busy,
    ),
    Saboteur(
        name="bogus-offset-believed", clause="G14", flush="sync", family="none", nodes=3, transport="tcp",
        make=sets.bogus_offset_believed, shape=shapes.busy,
    ),
    Saboteur(
        name="only-the-number-compared", clause="G10", flush="sync", family="isolate", nodes=3, transport="tcp",
        make=sets.only_the_number_compared, shape=shapes.cut_off("isolate", "n1"),
    ),
    Saboteur(
        name="electable-after-a-power-cut", clause="G01", flush="none", family="power-cut", nodes=3, transport="tcp",
        make=sets.electable_after_a_power_cut, shape=shapes.one_comes_back_and_the_others_die("power-cut"),
    ),
    Saboteur(
        name="flushed-only-claimed", clause="G01", flush="none", family="power-cut", nodes=3, transport="tcp",
        make=sets.flushed_only_claimed, shape=shapes.one_comes_back_and_the_others_die("power-cut"),
    ),
    Saboteur(
        name="emptied-not-noticed", clause="G01", flush="sync", family="emptied", nodes=3, transport="tcp",
        make=sets.emptied_not_noticed, shape=shapes.one_comes_back_and_the_others_die("emptied"),
    ),
    Saboteur(
        name="empty-primary-goes-on", clause="G01", flush="sync", family="emptied", nodes=3, transport="tcp",
        make=sets.empty_primary_goes_on, shape=shapes.the_primary_comes_back("emptied"),
    ),
    Saboteur(
        name="lease-not-heeded", clause="G09", flush="sync", family="isolate", nodes=3, transport="tcp",
        replication="async-report", make=sets.lease_not_heeded, shape=shapes.cut_off("isolate", "n1", sends=70),
    ),
    Saboteur(
        name="heartbeat-is-enough", clause="G09", flush="sync", family="cut-peers", nodes=3, transport="tcp",
        replication="async-report", make=sets.heartbeat_is_enough, shape=shapes.cut_off("cut-peers", "n1", sends=70),
    ),
    Saboteur(
        name="epoch-of-the-own-log", clause="G09", flush="sync", family="failovers", nodes=3, transport="tcp",
        make=sets.epoch_of_the_own_log, shape=shapes.two_that_do_not_know_of_each_other,
    ),
    Saboteur(
        name="mended-from-rot", clause="G12", flush="sync", family="rot", nodes=3, transport="tcp",
        make=sets.mended_from_rot, shape=shapes.one_of_three_copies_is_whole,
    ),
    Saboteur(
        name="nobody-is-asked", clause="G12", flush="sync", family="rot", nodes=3, transport="tcp",
        make=sets.nobody_is_asked, shape=shapes.one_copy_rots,
    ),
    Saboteur(
        name="lost-although-whole", clause="G12", flush="sync", family="rot", nodes=3, transport="tcp",
        make=sets.nobody_has_it, shape=shapes.one_copy_rots,
    ),
    Saboteur(
        name="lost-passed-over", clause="G12", flush="sync", family="rot", nodes=3, transport="tcp",
        make=sets.lost_passed_over, shape=shapes.no_copy_is_whole,
    ),
    Saboteur(
        name="lost-acknowledged", clause="G12", flush="sync", family="rot", nodes=3, transport="tcp",
        make=sets.lost_acknowledged, shape=shapes.what_waits_rots,
    ),
    Saboteur(
        name="damage-served-in-a-set", clause="G12", flush="sync", family="rot", nodes=3, transport="tcp",
        make=log.damage_served, shape=shapes.one_copy_rots,
    ),
    Saboteur(
        name="clone-accepted", clause="G12", flush="sync", family="copied-disk", nodes=3, transport="tcp",
        make=sets.clone_accepted, shape=shapes.a_clone,
    ),
    Saboteur(
        name="old-copy-electable", clause="G01", flush="sync", family="copied-disk", nodes=3, transport="tcp",
        make=sets.electable_after_a_power_cut, shape=shapes.an_old_copy_and_the_others_die,
    ),
    Saboteur(
        name="cut-at-the-watermark", clause="G01", flush="sync", family="kill", nodes=3, transport="tcp",
        make=sets.cut_at_the_watermark, shape=shapes.a_replica_starts_and_the_others_die,
    ),
    Saboteur(
        name="cut-and-discarded", clause="G10", flush="sync", family="isolate", nodes=3, transport="tcp",
        replication="async-report", make=sets.cut_and_discarded, shape=shapes.cut_off("isolate", "n1"),
    ),
    Saboteur(
        name="replica-shows-everything", clause="G08", flush="sync", family="kill", nodes=3, transport="tcp",
        make=sets.replica_shows_everything, shape=shapes.the_replica_that_is_read_dies,
    ),
    Saboteur(
        name="age-not-told", clause="G19", flush="sync", family="cut-peers", nodes=3, transport="tcp",
        make=sets.age_not_told, shape=shapes.a_replica_left_behind_is_read,
    ),
    Saboteur(
        name="read-before-replicas-have-it", clause="G08", flush="none", family="isolate", nodes=3, transport="tcp",
        make=broker.reads_above_committed, shape=shapes.read_at_a_lonely_primary,
    ),
    Saboteur(
        name="end-of-reign-called-rejected", clause="G07", flush="sync", family="coordinator-cut", nodes=3,
        transport="tcp", make=broker.unknown_called_rejected,
        shape=shapes.cut_off("coordinator-cut", "n1", latency_us=20_000, pause_ms=5, sends=300),
    ),
    Saboteur(
        name="duplicate-at-once-in-a-set", clause="G14", flush="sync", family="cut-peers", nodes=3, transport="tcp",
        make=broker.duplicate_at_once, shape=shapes.retries_without_replicas,
    ),
    Saboteur(
        name="position-unchecked-in-a-set", clause="G06", flush="sync", family="isolate", nodes=3, transport="tcp",
        replication="async-report", make=broker.positions_unchecked, shape=shapes.read_over_a_failover,
    ),
)
