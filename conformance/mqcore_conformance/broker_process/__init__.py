"""The broker under test of T1, as a process of its own: ``python -m mqcore_conformance.broker_process JSON``.

Imports little beside the broker: a run starts several. What is injected into its files stands in ``ports``.
"""
