"""A file of users, alice and bob, whose passwords are one."""

from __future__ import annotations

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # ``guarded``, found beside these tests


@pytest.fixture(scope="session")
def verifier():
    pytest.importorskip("scramp")
    from guarded import PASSWORD

    from mqcore_access.users import make_verifier

    return make_verifier(PASSWORD)


@pytest.fixture
def users(tmp_path, verifier):
    from mqcore_access.users import changing_users

    path = str(tmp_path / "users")
    with changing_users(path, may_be_new=True) as known:
        known["alice"] = known["bob"] = verifier
    return path
