"""What goes to etcd's JSON gateway, byte for byte, and what is made of everything that may come back."""

from __future__ import annotations

import base64
import json

import pytest

from mqcore.abc import CoordinatorCell
from mqcore.ensembles import ServerFailureError

pytestmark = pytest.mark.needs("etcd")

KEY, ID, VALUE = b"mqcore/sets/a:record", bytes(range(16)), b"epoch 1"
KEY_TEXT, STORED_TEXT = "bXFjb3JlL3NldHMvYTpyZWNvcmQ=", "AAECAwQFBgcICQoLDA0ODwBlcG9jaCAx"


@pytest.fixture(scope="module")
def bodies():
    """The module that builds requests; imported late, since the part's library may be missing."""
    from mqcore_etcd import _requests

    return _requests


@pytest.fixture(scope="module")
def answers():
    from mqcore_etcd import _answers

    return _answers


def test_a_conditional_write_is_this_request(bodies):
    body = bodies.txn_body(
        [*bodies.compare_id(KEY, ID), bodies.compare_absent(b"k")],
        [bodies.put_value(KEY, bodies.stored_value(ID, VALUE))],
    )
    assert body.decode() == (
        '{"compare":['
        f'{{"key":"{KEY_TEXT}","target":"VALUE","result":"GREATER","value":"AAECAwQFBgcICQoLDA0ODw=="}},'
        f'{{"key":"{KEY_TEXT}","target":"VALUE","result":"LESS","value":"AAECAwQFBgcICQoLDA0ODwE="}},'
        '{"key":"aw==","target":"CREATE","result":"EQUAL","create_revision":"0"}],'
        f'"success":[{{"request_put":{{"key":"{KEY_TEXT}","value":"{STORED_TEXT}"}}}}]}}'
    )


def test_every_condition_names_its_target_without_which_the_gateway_compares_something_else(bodies):
    for condition in (*bodies.compare_id(b"k", ID), bodies.compare_absent(b"k")):
        assert condition["target"] in ("VALUE", "CREATE")
        assert condition["result"] in ("GREATER", "LESS", "EQUAL")


@pytest.mark.parametrize("other", [bytes(16), ID[:-1] + b"\x0e", ID[:-1] + b"\x10", b"\xff" * 16])
@pytest.mark.parametrize("value", [b"", b"\0", b"\xff" * 9])
def test_the_values_between_the_two_bounds_are_those_of_one_write(bodies, other, value):
    above, below = (base64.b64decode(condition["value"]) for condition in bodies.compare_id(KEY, ID))
    assert above < bodies.stored_value(ID, value) < below
    assert not above < bodies.stored_value(other, value) < below
    assert bodies.split_value(bodies.stored_value(ID, value)) == (ID, value)


def test_reads_lists_watches_and_log_ins_are_these_requests(bodies):
    assert bodies.txn_body([], [bodies.get_key(b"k")]) == b'{"compare":[],"success":[{"request_range":{"key":"aw=="}}]}'
    assert bodies.keys_body(b"a/", b"a0", 7) == b'{"key":"YS8=","range_end":"YTA=","limit":"7","keys_only":true}'
    assert bodies.watch_body(b"a:", b"a;") == b'{"create_request":{"key":"YTo=","range_end":"YTs="}}'
    assert bodies.authenticate_body("u", "p") == b'{"name":"u","password":"p"}'
    assert bodies.end_of_prefix(b"a/") == b"a0"


def test_what_is_left_out_of_an_answer_is_zero(answers):
    refused = answers.txn_answer({"header": {"cluster_id": "9", "revision": "4"}})
    assert (refused.succeeded, refused.cells, refused.revision, refused.cluster) == (False, [], 4, "9")


def test_a_read_gives_the_write_id_and_the_value_of_each_key(answers):
    fields = {
        "header": {"cluster_id": "9", "revision": "4"},
        "responses": [{"response_range": {"kvs": [{"value": STORED_TEXT}]}}, {"response_range": {}}],
        "succeeded": True,
    }
    assert answers.txn_answer(fields).cells == [CoordinatorCell(VALUE, ID), CoordinatorCell()]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"header": {}},
        {"header": {"cluster_id": "9", "revision": 4}},
        {"header": {"cluster_id": "9", "revision": "-4"}},
        {"header": {"cluster_id": "9", "revision": "4" * 30}},
        {"header": {"cluster_id": "9", "revision": "4"}, "responses": 5},
        {"header": {"cluster_id": "9", "revision": "4"}, "responses": [7]},
        {"header": {"cluster_id": "9", "revision": "4"}, "responses": [{"response_range": {"kvs": [{"value": "!"}]}}]},
        {
            "header": {"cluster_id": "9", "revision": "4"},
            "responses": [{"response_range": {"kvs": [{"value": "YQ=="}]}}],
        },
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
def test_an_answer_that_is_not_as_it_must_be_is_a_failure(answers, fields):
    with pytest.raises(ServerFailureError):
        answers.txn_answer(fields)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{", b"[" * 100_000, b"<html>"])
def test_what_is_no_json_object_is_a_failure_that_shows_little_of_it(answers, data):
    with pytest.raises(ServerFailureError) as caught:
        answers.json_object(data)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("status", "code", "sure"),
    [
        (400, 3, True),  # invalid argument
        (403, 7, True),  # permission denied
        (429, 8, True),  # no space left
        (401, 16, True),  # token forgotten
        (500, 2, False),  # unknown: met for transactions that were applied
        (503, 14, False),  # unavailable: as well
        (504, 4, False),  # deadline exceeded
        (500, 13, False),  # internal
        (500, None, False),
    ],
)
def test_only_some_codes_say_for_certain_that_a_write_was_not_applied(answers, status, code, sure):
    body = json.dumps({"error": "so it is", "code": code}).encode()
    refusal = answers.refusal(status, body)
    assert refusal.sure is sure
    assert "so it is" in str(refusal)


def test_an_answer_of_something_else_than_etcd_says_nothing_about_a_write(answers):
    assert not answers.refusal(400, b"Client sent an HTTP request to an HTTPS server.").sure


def test_a_watch_that_was_cancelled_for_a_compaction_is_a_failure_though_its_status_was_200(answers):
    assert answers.watch_event(b'{"result":{"created":true}}')
    assert answers.watch_event(b'{"result":{"events":[{}]}}')
    assert not answers.watch_event(b'{"result":{"header":{}}}')
    for line in (b'{"result":{"canceled":true,"compact_revision":"9"}}', b'{"error":{"grpc_code":14}}', b"{}"):
        with pytest.raises(ServerFailureError):
            answers.watch_event(line)


@pytest.mark.parametrize("fields", [{}, {"token": ""}, {"token": 5}, {"token": "a\r\nb: c"}, {"token": "\u00e9"}])
def test_a_token_that_could_not_be_a_header_is_a_failure(answers, fields):
    with pytest.raises(ServerFailureError):
        answers.token_of(fields)
