"""What an SQLSTATE says about a write to PostgreSQL."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.needs("postgres")


@pytest.mark.parametrize(
    ("state", "sure", "elsewhere"),
    [
        ("40001", True, True),  # serialization failure
        ("40003", False, True),  # statement completion unknown
        ("42501", True, False),  # no permission
        ("25006", True, True),  # a standby takes no writes
        ("53100", True, True),  # disk full
        ("57P01", False, True),  # shut down by an operator: a commit may have been made
        ("57014", False, True),  # cancelled
        ("08006", False, True),  # the connection broke
        ("XX000", False, True),  # internal error
    ],
)
def test_only_errors_that_are_raised_before_a_commit_are_certain(state, sure, elsewhere):
    from mqcore_postgres._statements import refusal

    found = refusal(state, "so it is")
    assert (found.sure, found.elsewhere) == (sure, elsewhere)
    assert "so it is" in str(found)
    assert state in str(found)
