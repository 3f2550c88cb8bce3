"""One error out of a nursery, also where the nursery is cancelled from outside at that moment."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mqcore.nurseries import one_error


async def fail(error: Exception) -> None:
    await trio.lowlevel.checkpoint()
    raise error


async def fail_when_cancelled(error: Exception) -> None:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        raise error from None


async def fail_twice() -> None:
    with one_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, LookupError("one"))
            nursery.start_soon(fail_when_cancelled, ValueError("two"))


@pytest.mark.trio
async def test_the_single_error_is_raised_as_itself() -> None:
    async def play() -> None:
        with one_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail, LookupError("mine"))
                nursery.start_soon(trio.sleep_forever)

    with pytest.raises(LookupError, match="mine"):
        await play()


@pytest.mark.trio
async def test_an_error_that_meets_a_cancellation_can_be_handled_and_the_cancellation_is_not_lost() -> None:
    """Else a replica whose stream broke while its role changed ended its process."""
    handled: list[str] = []
    with trio.CancelScope() as scope:
        try:
            with one_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail_when_cancelled, LookupError("mine"))
                    nursery.start_soon(trio.sleep_forever)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
        except LookupError as error:
            handled.append(str(error))
        await trio.lowlevel.checkpoint()
        handled.append("went on")
    assert handled == ["mine"]
    assert scope.cancelled_caught


@pytest.mark.trio
async def test_several_errors_stay_a_group_and_a_cancellation_alone_one_too() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await fail_twice()
    assert len(caught.value.exceptions) == 2
    with trio.CancelScope() as scope:
        with one_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()
    assert scope.cancelled_caught
