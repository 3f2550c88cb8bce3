"""Contract checks of many logins of one authenticator: what they cost, what they leave, and what they show of secrets.

What a login costs is counted, in calls and in hashes, and not timed: a count is the same on a machine under load.
"""

from __future__ import annotations

import gc
import logging
import sys
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable
from types import FrameType

from mqcore.abc import LoginRefusedError
from mqcore_conformance.contract._authenticator_harness import AuthenticatorHarness, Dialogue, KeptLog, impostors_of
from mqcore_conformance.contract._checks import check, expect, expect_silence

LOGINS_AT_ONCE = 24
ABANDONED = 400
BYTES_EACH_MAX = 16
"""What a login may leave when it is abandoned: less than a pointer and an object."""
CALLS_APART_MAX = 10
HASHING = ("_hash", "_hmac", "_sha", "_md5", "_blake", "_scrypt", "_crypt", "cryptography", "bcrypt", "argon2", "nacl")
"""Beginnings of the names of modules that hash."""


@check("authenticator", "G18", seconds_max=30.0)
def an_unknown_name_costs_what_a_wrong_secret_costs(harness: AuthenticatorHarness) -> None:
    """The broker's end hashes as often, and makes about as many calls: time does not tell who there is."""
    part = harness.opened()
    for principal in harness.with_names:
        wrong = dict(impostors_of(harness.credentials[principal]))["the secret backwards"]
        both = {"a wrong secret": wrong, "an unknown name": harness.unknown(principal)}
        for credentials in both.values():  # so that what is made once is there
            harness.refused_login(part, credentials, "an impostor")
        costs = {what: _cost(harness.dialogue(part, credentials)) for what, credentials in both.items()}
        hashes = {what: {name: count for name, count in one.items() if _hashes(name)} for what, one in costs.items()}
        first, second = hashes.values()
        expect(first == second, f"it hashes otherwise for an unknown name than for {principal}: {hashes}")
        calls = {what: one.total() for what, one in costs.items()}
        apart = abs(calls["a wrong secret"] - calls["an unknown name"])
        expect(
            apart <= max(CALLS_APART_MAX, min(calls.values()) // 10),
            f"it takes another way for an unknown name than for {principal}: {calls} calls",
        )


def _hashes(name: str) -> bool:
    return name.startswith(HASHING)


def _cost(login: Dialogue) -> Counter[str]:
    """Return how often the broker's end of a login calls what, by module and name."""
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            counts[f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"] += 1
        elif event == "c_call":
            owner = getattr(argument, "__self__", None)
            module = getattr(argument, "__module__", None) or type(owner).__module__
            counts[f"{module}.{getattr(argument, '__qualname__', '')}"] += 1

    answer = login.server.answer

    def counted(response: bytes) -> object:
        sys.setprofile(count)
        try:
            return answer(response)
        finally:
            sys.setprofile(None)

    response = login.client.begin()
    while True:
        try:
            said = counted(response)
        except LoginRefusedError:
            return counts
        assert isinstance(said, bytes), "it was refused a moment ago"
        response = login.client.answer(said)


@check("authenticator", "G18", seconds_max=30.0)
def logins_side_by_side_do_not_mix(harness: AuthenticatorHarness) -> None:
    """Of many logins that take turns, right and wrong, each ends as it would alone; a failure disturbs no other."""
    principals = harness.principals
    part = harness.opened()
    logins: list[tuple[Dialogue, str]] = []
    for number in range(LOGINS_AT_ONCE):
        principal = principals[number % len(principals)]
        wrong = dict(impostors_of(harness.credentials[principal]))["the secret backwards"]
        is_right = number % 3 != 1
        credentials = harness.credentials[principal] if is_right else wrong
        logins.append((harness.dialogue(part, credentials), principal if is_right else ""))
    while left := [login for login, _ in logins if not login.is_over]:
        for login in left:
            login.turn()
    for number, (login, wanted) in enumerate(logins, 1):
        found = login.proof.principal if login.proof is not None else ""
        how = f"login {number} of {len(logins)} that take turns"
        expect(found == wanted, f"{how} ends as {found or 'refused'}, alone it would be {wanted or 'refused'}")
        if login.proof is not None:
            _finish(login, how)


def _finish(login: Dialogue, how: str) -> None:
    assert login.proof is not None
    try:
        login.client.finish(login.proof.data)
    except LoginRefusedError as refusal:
        expect(False, f"the client of {how} refuses the broker: {refusal}")


@check("authenticator", "G20", seconds_max=60.0, leaves_nothing=True)
def logins_that_are_abandoned_leave_nothing(harness: AuthenticatorHarness) -> None:
    """Peers that stop anywhere in a login, or fail it, cost no memory, descriptor or thread when they are gone."""
    principals = harness.principals
    part = harness.opened()
    wrong = dict(impostors_of(harness.credentials[principals[0]]))["the secret backwards"]

    def abandon(times: int) -> None:
        for number in range(times):
            harness.server(part)
            half = harness.dialogue(part, harness.credentials[principals[number % len(principals)]])
            half.turn()
            if number % 8 == 0:
                harness.dialogue(part, wrong).to_end()

    abandon(16)
    kept = _kept_bytes(lambda: abandon(ABANDONED))
    expect(
        kept <= BYTES_EACH_MAX * ABANDONED,
        f"{ABANDONED} logins that were abandoned leave {kept} bytes: {kept // ABANDONED} each",
    )
    harness.log_in(part, principals[0])


def _kept_bytes(work: Callable[[], None]) -> int:
    """Return how much memory is in use after ``work`` that was not before."""
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@check("authenticator", "G18", seconds_max=30.0)
def no_secret_is_in_an_error_a_log_or_a_repr(harness: AuthenticatorHarness) -> None:
    """What it raises, reports, logs and prints, and how it looks in a debugger, has no secret, right or wrong."""
    principals = harness.principals
    log = KeptLog()
    root = logging.getLogger()
    level = root.level
    root.addHandler(log)
    root.setLevel(1)
    texts: list[str] = []
    hidden: dict[str, str] = {}
    try:
        part = harness.opened()
        for principal in principals:
            mine = harness.credentials[principal]
            for what, each in {"the right secret": mine, **dict(impostors_of(mine))}.items():
                if what == "no secret":
                    continue
                secret = each.token or each.password
                assert secret is not None, "a LoginControl gives credentials with a secret"
                hidden[secret.reveal()] = f"{what} of {principal}"
                login = harness.dialogue(part, each)
                texts += [f"{one!r} {one}" for one in (part, login.server, login.client)]
                login.to_end()
                texts += [f"{one!r} {one}" for one in (part, login.server, login.client)]
                texts += _told(login.refusal)
                if what == "the right secret":
                    broken = harness.server(part)
                    try:
                        broken.answer(secret.reveal().encode() + b",x")
                    except LoginRefusedError as refusal:
                        texts += _told(refusal)
    finally:
        root.setLevel(level)
        root.removeHandler(log)
    for text, where in (
        ("\n".join(texts), "an error or a repr of it"),
        ("\n".join(log.lines), "what it logs"),
        (repr(harness.notices), "what it reports"),
    ):
        shown = next((what for secret, what in hidden.items() if secret in text), "")
        expect(not shown, f"{shown} is in {where}")
    expect_silence()


def _told(refusal: BaseException | None) -> list[str]:
    """Return everything that is shown of an error, and of those behind it, also where a traceback leaves them out."""
    texts = []
    while refusal is not None:
        texts += [repr(refusal), *traceback.format_exception(refusal, chain=False)]
        refusal = refusal.__cause__ or refusal.__context__
    return texts
