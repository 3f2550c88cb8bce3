"""The suite on what mqcore itself brings: ``pytest --pyargs mqcore_conformance -k G01``."""

from mqcore_conformance.suite import *  # noqa: F403
