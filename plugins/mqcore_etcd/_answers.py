"""Reads what etcd's JSON gateway answers; what is not as it must be is a failure of the connection. Pure.

In these answers a field that is zero, empty or false is left out: absence is zero, never an error.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import attrs

from mqcore.abc import CoordinatorCell
from mqcore.ensembles import ServerFailureError, ServerRefusalError
from mqcore_etcd._requests import split_value

__all__ = ["TxnAnswer", "json_object", "keys_of", "refusal", "token_of", "txn_answer", "watch_event"]

_TEXT_MAX = 200

# After one of gRPC's other codes a transaction may have been proposed to the members: 2 (unknown) and 14 (unavailable)
# were met for transactions that were applied, 4 (deadline) and 13 (internal) say as little.
_INVALID, _NOT_FOUND, _DENIED, _EXHAUSTED, _PRECONDITION, _ABORTED, _RANGE = 3, 5, 7, 8, 9, 10, 11
_UNIMPLEMENTED, _UNAUTHENTICATED = 12, 16
_SURE = {_INVALID, _NOT_FOUND, _DENIED, _EXHAUSTED, _PRECONDITION, _ABORTED, _RANGE, _UNIMPLEMENTED, _UNAUTHENTICATED}
_EVERYWHERE = {_INVALID, _DENIED, _PRECONDITION, _UNIMPLEMENTED}


@attrs.frozen
class TxnAnswer:
    """Whether the conditions held, what was read, and whose state at which revision that was."""

    succeeded: bool
    cells: list[CoordinatorCell]
    revision: int
    cluster: str


def json_object(data: bytes) -> Mapping[str, Any]:
    """Return the JSON object in ``data``. Raises ``ServerFailureError``."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ServerFailureError(f"expected a JSON object, got {_shown(data)}; is this etcd's client port?")
    return found


def refusal(status: int, data: bytes) -> ServerRefusalError:
    """Return what an answer with an HTTP status other than 200 means."""
    try:
        fields = json_object(data)
    except ServerFailureError:
        return ServerRefusalError(f"HTTP status {status}: {_shown(data)}", sure=False, elsewhere=True)
    code = fields.get("code")
    message = str(fields.get("message") or fields.get("error") or "")
    text = f"HTTP status {status}, code {code}: {_shown(message.encode('utf-8', 'replace'))}"
    if "user name is empty" in message:
        # So it answers a client that showed a certificate too: at the gateway its name is no user.
        text += "; set user and password_file, the gateway takes no user from a certificate"
    return ServerRefusalError(text, sure=code in _SURE, elsewhere=code not in _EVERYWHERE)


def txn_answer(fields: Mapping[str, Any]) -> TxnAnswer:
    """Return what a transaction answered. Raises ``ServerFailureError``."""
    try:
        header = fields["header"]
        cells = [_cell(each.get("response_range")) for each in fields.get("responses", []) if "response_range" in each]
        return TxnAnswer(
            succeeded=fields.get("succeeded", False) is True,
            cells=cells,
            revision=_number(header["revision"]),
            cluster=str(header["cluster_id"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ServerFailureError(f"a transaction's answer is not as it must be ({error!r})") from None


def keys_of(fields: Mapping[str, Any]) -> list[bytes]:
    """Return the keys that a range request answered, in order. Raises ``ServerFailureError``."""
    try:
        return [base64.b64decode(each["key"], validate=True) for each in fields.get("kvs", [])]
    except (KeyError, TypeError, ValueError) as error:
        raise ServerFailureError(f"a list of keys is not as it must be ({error!r})") from None


def token_of(fields: Mapping[str, Any]) -> str:
    """Return the token that a log-in answered. Raises ``ServerFailureError``."""
    token = fields.get("token")
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise ServerFailureError("a log-in was answered without a token")
    return token


def watch_event(data: bytes) -> bool:
    """Whether a line of a watch says that something may have changed; what ends the watch is an error.

    A compaction arrives here too, as ``canceled`` in a stream whose status was 200. Raises ``ServerFailureError``.
    """
    fields = json_object(data)
    result = fields.get("result")
    if not isinstance(result, dict) or result.get("canceled"):
        raise ServerFailureError(f"the watch ended: {_shown(data)}")
    return bool(result.get("created") or result.get("events"))


def _cell(answer: Mapping[str, Any]) -> CoordinatorCell:
    kvs = answer.get("kvs", [])
    if not kvs:
        return CoordinatorCell()
    stored = base64.b64decode(kvs[0].get("value", ""), validate=True)
    write_id, value = split_value(stored)
    return CoordinatorCell(value, write_id)


def _number(text: object) -> int:
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 20:
        raise ValueError(f"{text!r:.40} is not a number")
    return int(text)


def _shown(data: bytes) -> str:
    """Return the beginning of what a server wrote, fit for a log."""
    text = data[:_TEXT_MAX].decode("utf-8", "replace")
    return repr("".join(character if character.isprintable() else " " for character in text).strip())
