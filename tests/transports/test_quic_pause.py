"""QUIC: an engine that asks for timers again and again, while nothing comes, keeps no processor busy."""

from __future__ import annotations

from mqcore_quic._pause import TimerPause


def test_g20_timers_come_ever_more_seldom_while_a_peer_is_silent() -> None:
    pause, now, count = TimerPause(), 0.0, 0
    pause.sent(now)
    while now < 10:  # the time in which it is given up
        now = max(now + 0.00005, pause.earliest(now))
        pause.ran(now)
        pause.sent(now)
        count += 1
    assert count < 150


def test_what_comes_makes_timers_exact_again() -> None:
    pause = TimerPause()
    pause.sent(1.0)
    pause.ran(9.0)
    assert pause.earliest(9.0) == 10.0
    pause.heard()
    assert pause.earliest(9.0) < 9.00001
    pause.sent(9.0)
    assert pause.earliest(9.0) < 9.00001


def test_who_goes_on_writing_does_not_put_a_timer_off_for_ever() -> None:
    """As where all that may be on its way is lost, and a program writes a little each 2 ms: only a timer helps."""
    pause, now, times = TimerPause(), 0.0, list[float]()
    pause.sent(now)
    armed = 0.1  # what the engine asks for
    while now < 3:
        now += 0.002
        if now >= armed:
            times.append(now)
            pause.ran(now)
        armed = max(0.1, pause.earliest(now))
    assert 8 < len(times) < 60
    assert times[0] < 0.11
