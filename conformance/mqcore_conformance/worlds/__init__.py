"""Worlds: where a plan is played. ``model``: one process, virtual time (T0). ``processes``: real brokers (T1)."""
