"""The verb ``conformance``: one module per verb, and what they share."""

from mqcore_conformance.cli._command import conformance

__all__ = ["conformance"]
