"""Worked examples of parts that no simulation can hold: docs/storage-own-io.md and docs/transport-framed.md.

They are honest; ``mqcore_conformance.saboteurs`` makes liars of them.
"""
