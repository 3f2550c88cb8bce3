"""Contract checks of an authenticator alone: who is let in, who is not, and that a refusal says no more than that."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence

from mqcore.abc import Authenticator, Credentials, Peer, Proof
from mqcore.errors import ConfigurationError
from mqcore_conformance.contract._authenticator_harness import (
    NOBODY,
    RESPONSE_BYTES_MAX,
    TURNS_MAX,
    AuthenticatorHarness,
    answer_of,
    impostors_of,
)
from mqcore_conformance.contract._checks import NotApplicable, check, expect, refused

MUTATIONS = 60
LOGINS_COMPARED = 8
"""So many that two random bytes are the same in all of them by no chance."""
OTHER_BYTES = (b"", b"\0", b"\xff" * 16, b"\x80\x81", b"n,,n=a,r=b", b"c=biws,r=x,p=AAAA", b"=" * RESPONSE_BYTES_MAX)
"""What is no login of anybody: nothing, no text, halves of a known mechanism, as much as a frame holds."""


@check("authenticator", "G18")
def an_unknown_authenticator_option_is_refused_by_name(harness: AuthenticatorHarness) -> None:
    """An option that does not exist is refused, and the message names it."""
    option = f"option_{random.Random(f'{harness.seed}/option').getrandbits(40):010x}"
    with refused(f"the option {option}", ConfigurationError, names=option):
        harness.composed({**harness.options, option: "1"})


@check("authenticator", "G18")
def an_authenticator_reads_when_it_is_opened(harness: AuthenticatorHarness) -> None:
    """Composing one does no I/O; what it reads and cannot be read is refused by ``open``, in one line that names it."""
    harness.composed()
    shutil.rmtree(harness.folder)
    part = harness.composed()
    gone = [str(value) for value in harness.options.values() if str(value).startswith(str(harness.folder))]
    if not gone:
        raise NotApplicable("no option of it names a file")
    with refused("a file that is not there", ConfigurationError, names=gone[0]):
        part.open()


@check("authenticator", "G18")
def the_right_secret_gives_its_principal(harness: AuthenticatorHarness) -> None:
    """Each principal logs in, again and again, as ``kind:name`` and as nobody else; then it is known."""
    principals = harness.principals
    part = harness.opened()
    for principal in (*principals, *reversed(principals)):
        kind, colon, name = principal.partition(":")
        expect(bool(kind and colon and name), f"a principal is kind:name, not {principal!r}")
        expect(principal.isprintable(), f"{principal!a} is not printable: it stands in rules and in lines of logs")
        harness.log_in(part, principal)
        expect(part.is_known(principal), f"{principal}, whom it has just let in, is not known")


@check("authenticator", "G18")
def what_a_link_says_is_believed_and_nothing_else(harness: AuthenticatorHarness) -> None:
    """A peer of whom the link says who it is has that principal; any other has none, and is not guessed."""
    part = harness.opened()
    for principal, peer in harness.control.peers().items():
        found = part.principal_of(peer)
        expect(found == principal, f"the peer {principal} is taken for {found}")
        expect(part.is_known(principal), f"{principal}, whom it has just known, is not known")
    for peer in (NOBODY, Peer(address="ada"), Peer(address="user:ada"), Peer(address="x", tls_subject="")):
        found = part.principal_of(peer)
        expect(found is None, f"a peer of whom the link says nothing is taken for {found}")
    if not harness.credentials:
        expect(part.begin_login(NOBODY) is None, "it begins a login, and its LoginControl has no credentials")


@check("authenticator", "G18")
def credentials_of_another_mechanism_give_no_client(harness: AuthenticatorHarness) -> None:
    """``client`` returns None for credentials that its mechanism cannot use; a password is not sent as a token."""
    made = type(harness.opened()).client
    others = [Credentials()]
    for mine in harness.credentials.values():
        others += [Credentials(user=mine.user)] if mine.user is not None else []
        # A secret of one kind that another mechanism took would travel as that does.
        others += [Credentials(token=mine.password)] if mine.password is not None else []
        others += [Credentials(user="ada", password=mine.token)] if mine.token is not None else []
    for other in others:
        expect(made(other) is None, f"it makes a client of {other}")


@check("authenticator", "G18", seconds_max=30.0)
def a_wrong_secret_is_refused(harness: AuthenticatorHarness) -> None:
    """No part of a secret, nothing like it and nobody else's lets anybody in; the right one does as before."""
    principals = harness.principals
    part = harness.opened()
    for number, principal in enumerate(principals):
        mine = harness.credentials[principal]
        for what, wrong in impostors_of(mine):
            harness.refused_login(part, wrong, f"{principal} with {what}")
        other = harness.credentials[principals[number - 1]]
        if mine.user is not None:
            mixed = Credentials(user=mine.user, password=other.password, token=other.token)
            harness.refused_login(part, mixed, f"{principal} with the secret of {principals[number - 1]}")
        harness.log_in(part, principal)


@check("authenticator", "G18", seconds_max=30.0)
def an_unknown_name_is_refused_as_a_wrong_secret_is(harness: AuthenticatorHarness) -> None:
    """As many turns, challenges as long and as constant: a peer cannot tell whether there is such a user."""
    part = harness.opened()
    for principal in harness.with_names:
        wrong = dict(impostors_of(harness.credentials[principal]))["the secret backwards"]
        seen = [_shape(harness, part, one) for one in (wrong, harness.unknown(principal))]
        expect(
            seen[0] == seen[1],
            f"a peer can tell an unknown name from {principal}: with a wrong secret it sees {seen[0]}, "
            f"with an unknown name {seen[1]} (turns; length of each challenge; how much stays from login to login)",
        )


def _shape(harness: AuthenticatorHarness, part: Authenticator, credentials: Credentials) -> tuple[object, ...]:
    """Return what a peer sees of logins that fail: turns, lengths of challenges, how many of their bytes stay."""
    logins = [harness.refused_login(part, credentials, "an impostor") for _ in range(LOGINS_COMPARED)]
    turns = {len(one.responses) for one in logins}
    lengths = [{len(text) for text in texts} for texts in zip(*(one.challenges for one in logins), strict=True)]
    constant = [
        sum(len(set(column)) == 1 for column in zip(*texts, strict=False))
        for texts in zip(*(one.challenges for one in logins), strict=True)
    ]
    return turns, lengths, constant


@check("authenticator", "G18", seconds_max=30.0)
def what_is_no_login_is_refused(harness: AuthenticatorHarness) -> None:
    """Nothing, noise, half a login, one with bytes changed and one that is too long: refused, never another error."""
    principals = harness.principals
    part = harness.opened()
    chance = random.Random(harness.seed)
    for junk in (*OTHER_BYTES, b"x" * (RESPONSE_BYTES_MAX * 16), *(chance.randbytes(64) for _ in range(20))):
        harness.refused_responses(part, [junk] * TURNS_MAX, f"a response of {len(junk)} bytes, {junk[:16]!r},")
    for number in range(MUTATIONS):
        principal = principals[number % len(principals)]
        login = harness.dialogue(part, harness.credentials[principal])
        for _ in range(number // len(principals) % 2):  # the first response, or the next one
            login.turn()
        if login.is_over:
            continue
        response = login.client.answer(login.challenges[-1]) if login.responses else login.client.begin()
        changed = _changed(response, chance)
        answer = answer_of(lambda: login.server.answer(changed), f"a changed response, {changed[:40]!r},")  # noqa: B023
        if isinstance(answer, Proof):  # as where a mechanism reads over what was changed: then nothing else is said
            expect(answer.principal == principal, f"a changed login of {principal} is one of {answer.principal}")
    harness.log_in(part, principals[0])


def _changed(data: bytes, chance: random.Random) -> bytes:
    """Return ``data`` with a bit turned, a piece cut out, or a piece of noise in it."""
    if not data:
        return chance.randbytes(1)
    at = chance.randrange(len(data))
    kind = chance.randrange(3)
    if kind == 0:
        return bytes([*data[:at], data[at] ^ (1 << chance.randrange(8)), *data[at + 1 :]])
    return data[:at] + (chance.randbytes(3) if kind == 1 else b"") + data[at + 1 + kind :]


@check("authenticator", "G18")
def a_response_out_of_order_is_refused(harness: AuthenticatorHarness) -> None:
    """A login is over once it succeeded or failed, whatever is said then; responses count in their order alone."""
    principals = harness.principals
    part = harness.opened()
    for principal in principals:
        done = harness.log_in(part, principal)
        for response in done.responses:
            again = answer_of(lambda: done.server.answer(response), "a response after the end")  # noqa: B023
            expect(again is None, "a login that has succeeded takes another response")
        right = harness.dialogue(part, harness.credentials[principal])
        noise = [answer_of(lambda: right.server.answer(b"\xff\0"), "noise") for _ in range(TURNS_MAX)]  # noqa: B023
        expect(noise[-1] is None, "noise is not refused")
        right.to_end()
        expect(right.proof is None, f"after a refusal {principal} is let in on the same login")
        if len(done.responses) > 1:
            for order in (done.responses[::-1], [done.responses[-1]] * 2, [done.responses[0]] * 2):
                harness.refused_responses(part, order, "a login whose responses are out of order")


@check("authenticator", "G18")
def a_login_that_was_recorded_is_worthless(harness: AuthenticatorHarness) -> None:
    """What a client said is refused when it is said again: on the same broker, and on one that was started again."""
    principals = harness.principals
    part = harness.opened()
    recorded = [harness.log_in(part, principal).responses for principal in principals]
    if all(len(responses) == 1 for responses in recorded):
        raise NotApplicable("it asks nothing, so that what was said lets in again: such a link has to be encrypted")
    for place, where in ((part, "the same broker"), (harness.opened(), "a broker that was started again")):
        for responses in recorded:
            harness.refused_responses(place, responses, f"a login that was recorded, on {where},")


@check("authenticator", "G18")
def a_principal_that_is_taken_away_is_refused(harness: AuthenticatorHarness) -> None:
    """One that is gone logs in no more and is known no more, at once and without opening again; the others stay."""
    gone, *others = harness.principals
    part = harness.opened()
    harness.log_in(part, gone)
    harness.control.forget(gone)
    expect(not part.is_known(gone), f"{gone} was taken away and is still known")
    harness.refused_login(part, harness.credentials[gone], f"{gone}, who was taken away,")
    for principal in others:
        harness.log_in(part, principal)
        expect(part.is_known(principal), f"{principal} is known no more, since {gone} was taken away")
    expect(not part.is_known("other:nobody"), "a principal that it never gave is known")


@check("authenticator", "G18")
def a_client_is_not_broken_by_what_a_broker_says(harness: AuthenticatorHarness) -> None:
    """Whatever a broker says, the client answers or refuses it: never another error, and never the secret itself."""
    principals = harness.principals
    part = harness.opened()
    for said in _of_a_broker(harness.seed):
        for principal in principals:
            first = harness.dialogue(part, harness.credentials[principal])
            first.turn()
            answer = answer_of(lambda: first.client.answer(said), f"the challenge {said[:40]!r}")  # noqa: B023
            expect(answer is None or isinstance(answer, bytes), "a client answers with something that is no bytes")
            secret = harness.credentials[principal].password
            told = secret is not None and secret.reveal().encode() in b"".join((*first.responses, answer or b""))
            expect(not told, f"the client of {principal} says the password itself")
            last = harness.dialogue(part, harness.credentials[principal])
            last.to_end()
            answer_of(lambda: last.client.finish(said), f"the last word {said[:40]!r}")  # noqa: B023


def _of_a_broker(seed: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    endless: Sequence[bytes] = (b"r=x,s=AAAA,i=1000000000", b"r=x,s=AAAA,i=-1", b"e=other-error", b"v=AAAA")
    yield from (*OTHER_BYTES, *endless, *(chance.randbytes(40) for _ in range(5)))
