"""The broker under test of T1, as a process of its own: ``python -m mqcore_conformance.broker_process JSON``.

Imports little beside the broker: a run starts several. What forks them where that can be done stands in ``forking``,
what is injected into their files in ``ports``.
"""
