"""Brokers that ask who connects, and clients that say so, for the tests beside this one."""

from __future__ import annotations

import mqcore
from mqcore.abc import Secret

PASSWORD = "correct horse battery staple"


def private(path, text):
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


def allow(principal, *operations, resource="*", effect="allow"):
    return {"principal": principal, "resource": resource, "operations": list(operations), "effect": effect}


def broker_with(users, *rules, listen="tcp://127.0.0.1:0", authenticators=None, report=lambda notice: None, **keys):
    scram = {"name": "scram-sha-256", "users": users}
    access = {"authenticators": authenticators or [scram], "rules": list(rules)}
    return mqcore.open_broker(storage="memory://", flush="none", listen=listen, access=access, report=report, **keys)


def as_user(broker, name="alice", password=PASSWORD, **options):
    return mqcore.connect(
        broker.urls[0], user=name, password=Secret(password), **{"connect_timeout_ms": 5000, **options}
    )
