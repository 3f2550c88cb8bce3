"""Mutants of the checkers that no story tells apart, by their keys. One that survives and is not here fails the selftest.

Most judge every history alike (an optimisation is left out, two indices are never equal); the others want a story.
"""
# ruff: noqa: E501  (a key is a line)

__all__ = ["ACCEPTED_MUTANTS"]

ACCEPTED_MUTANTS = frozenset(
    {
        "_consumers._check_seeks `event.offset > position`: Gt becomes GtE",
        "_consumers._check_seeks `event.why == 'asked'`: Eq becomes NotEq",
        "_consumers._check_seeks `known[-1][0] >= event.offset or event.why == 'asked'`: and becomes or, or the other way round",
        "_consumers._check_seeks `known[-1][0] >= event.offset`: GtE becomes Gt",
        "_consumers._kept `not log.complete or first == len(known)`: and becomes or, or the other way round",
        "_consumers._kept `not log.complete or first == len(known)`: the condition is never met",
        "_content.check_g04 `(partition, digest) in seen`: the condition is never met",
        "_content.check_g04 `continue`: continue is left out",
        "_content.check_g04 `send.attempts[0].invoked_at > index`: Gt becomes GtE",
        "_content.check_g15 `continue`: continue is left out",
        "_content.check_g15 `found == digest`: Eq becomes NotEq",
        "_content.check_g15 `len(counts) == len(log.order)`: the condition is never met",
        "_drained.first_outside `begin <= first < end`: Lt becomes LtE",
        "_facts.__init__ `not history or not isinstance(history[0], Setting)`: and becomes or, or the other way round",
        "_facts.__init__ `not history or not isinstance(history[0], Setting)`: the condition is never met",
        "_facts._take `appends[-1][1] < event.next_offset`: Lt becomes LtE",
        "_facts._take `event.kind == 'rot' and event.partition`: and becomes or, or the other way round",
        "_facts.appended_before `at < index`: Lt becomes LtE",
        "_facts.rotted_before `at < index`: Lt becomes LtE",
        "_facts.voided `level >= Level.DISK`: GtE becomes Gt",
        "_flushes._acknowledged_by_a_log_that_had_to_stop `attempt.invoked.time_us > since_us`: Gt becomes GtE",
        "_flushes._acknowledged_by_a_log_that_had_to_stop `not stopped`: the condition is never met",
        "_flushes._check_reports `', '.join((f'{first} to {until - 1}' for first, until in rotted[:5])) or 'none'`: and becomes or, or the other way round",
        "_flushes._unjustified `last < facts.first_of(partition, by)`: Lt becomes LtE",
        "_flushes.check_g11 `attempt.invoked_at > failure.index`: Gt becomes GtE",
        "_flushes.check_g11 `index < failure.index`: Lt becomes LtE",
        "_flushes.check_g11 `not first`: the condition is never met",
        "_flushes.check_g12 `len(facts.nodes) > 1`: Gt becomes GtE",
        "_loss._every_node_is_cut `at < since`: Lt becomes LtE",
        "_loss.bounds_of `Level.parse(receipt.level) <= Level.MEMORY`: LtE becomes Lt",
        "_loss.bounds_of `send.invoked.policy == 'none' or Level.parse(receipt.level) <= Level.MEMORY`: and becomes or, or the other way round",
        "_loss.bounds_of `send.invoked.policy == 'none' or Level.parse(receipt.level) <= Level.MEMORY`: the condition is never met",
        "_loss.check_g02 `offset < lost[key][0]`: Lt becomes LtE",
        "_observed.check_g13 `seen.took_us < 0`: Lt becomes LtE",
        "_policies._change `period.last >= change.asked_at`: GtE becomes Gt",
        "_policies.between `period.first <= last`: LtE becomes Lt",
        "_policies.between `period.last >= first`: GtE becomes Gt",
        "_policies.between `self.is_constant`: the condition is never met",
        "_reigns.newer_than `at < index`: Lt becomes LtE",
        "_reigns.newest_at `at < index`: Lt becomes LtE",
    }
)
