"""A signal stops at once, or where somebody looks; once, and with all that others had to say."""

import signal
import threading
from _thread import interrupt_main
from concurrent.futures import ThreadPoolExecutor

import pytest

from vmkeep import stopping
from vmkeep.clock import SystemClock, WatchedClock
from vmkeep.errors import VmkeepError, notes_of

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("handled_signals")]


def stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def test_as_a_rule_a_signal_stops_at_once() -> None:
    done: list[int] = []
    with pytest.raises(stopping.Stopped) as stopped:
        stop()
        done.append(1)
    assert not done
    assert stopped.value.number == signal.SIGTERM


def test_who_is_stopped_is_stopped_once() -> None:
    with pytest.raises(stopping.Stopped):
        stop()
    for number in stopping.SIGNALS:
        signal.raise_signal(number)
        stopping.look()
    with stopping.held_back():
        signal.raise_signal(signal.SIGINT)
        stopping.look()


def test_what_is_held_back_is_raised_at_the_end() -> None:
    done: list[int] = []
    with pytest.raises(stopping.Stopped):
        with stopping.held_back():
            stop()
            done.append(1)
        done.append(2)
    assert done == [1]


def test_the_first_of_several_is_the_one_that_counts() -> None:
    with pytest.raises(stopping.Stopped) as stopped, stopping.held_back():
        signal.raise_signal(signal.SIGINT)
        stop()
    assert stopped.value.number == signal.SIGINT


def test_nothing_came_and_nothing_is_raised() -> None:
    stopping.look()
    with stopping.held_back():
        stopping.look()
        with stopping.at_once():
            stopping.look()
    with stopping.at_once():
        stopping.look()
    with pytest.raises(stopping.Stopped):  # held back no more
        stop()


def test_a_look_raises_what_is_held_back_and_only_once() -> None:
    done: list[int] = []
    with pytest.raises(stopping.Stopped), stopping.held_back():
        stop()
        done.append(1)
        try:
            stopping.look()
            done.append(2)
        finally:
            stopping.look()  # cleans up undisturbed
            done.append(3)
    assert done == [1, 3]


@pytest.mark.parametrize("given", ["before", "inside"])
def test_inside_what_may_be_stopped_it_is_at_once(given: str) -> None:
    done: list[str] = []
    with pytest.raises(stopping.Stopped), stopping.held_back():
        if given == "before":
            stop()
        done.append("held back")
        with stopping.at_once():
            if given == "inside":
                stop()
            done.append("not to be reached")
    assert done == ["held back"]


def test_blocks_of_both_kinds_in_one_another_end_as_they_began() -> None:
    done: list[str] = []
    with pytest.raises(stopping.Stopped), stopping.held_back():
        with stopping.at_once():
            with stopping.held_back():
                done.append("inner")
            stopping.look()
        stop()
        done.append("held back")
    assert done == ["inner", "held back"]


def test_what_was_let_through_and_is_ended_late_holds_nothing_back() -> None:
    """So it is where the signal comes between the generator of a block and its with statement."""
    with stopping.held_back():
        let_through = stopping.at_once()
        let_through.__enter__()
    del let_through
    with pytest.raises(stopping.Stopped):
        stop()


def test_behind_what_may_be_stopped_it_is_held_back_again() -> None:
    done: list[str] = []
    with pytest.raises(stopping.Stopped):
        with stopping.held_back():
            with stopping.at_once():
                done.append("at once")
            stop()
            done.append("held back")
        done.append("not to be reached")
    assert done == ["at once", "held back"]


def test_what_may_be_stopped_is_left_by_any_error_and_held_back_again() -> None:
    done: list[str] = []
    with pytest.raises(stopping.Stopped), stopping.held_back():
        with pytest.raises(LookupError), stopping.at_once():
            raise LookupError
        stop()
        done.append("held back")
    assert done == ["held back"]


def test_the_outermost_block_holds_back() -> None:
    done: list[str] = []
    with pytest.raises(stopping.Stopped):
        with stopping.held_back():
            with stopping.held_back():
                stop()
                done.append("inner")
            done.append("outer")
        done.append("not to be reached")
    assert done == ["inner", "outer"]


def test_an_error_under_way_gives_way_and_keeps_what_it_had_to_say() -> None:
    error = VmkeepError("the host is away.")
    error.add_note("left behind: one")
    with pytest.raises(stopping.Stopped) as stopped, stopping.held_back():
        stop()
        raise error
    assert stopped.value.__cause__ is error
    assert notes_of(stopped.value) == ("left behind: one",)


def test_an_error_without_a_signal_stays_as_it_is() -> None:
    error = VmkeepError("the host is away.")
    with pytest.raises(VmkeepError) as raised, stopping.held_back():
        raise error
    assert raised.value is error
    assert raised.value.__cause__ is None


def test_what_a_look_interrupts_is_told_too() -> None:
    with pytest.raises(stopping.Stopped) as stopped, stopping.held_back():
        try:
            error = VmkeepError("the host is away.")
            error.add_note("left behind: one")
            raise error
        except VmkeepError:
            stop()
            stopping.look()
    stopped.value.add_note("left behind: two")
    stopped.value.add_note("left behind: one")
    assert notes_of(stopped.value) == ("left behind: one", "left behind: two")


def test_notes_of_errors_that_go_round_in_a_circle_end() -> None:
    one, two = ValueError(), ValueError()
    one.__cause__, two.__cause__, two.__context__ = two, one, two
    one.add_note("one")
    two.add_note("two")
    assert notes_of(one) == ("two", "one")


def test_other_threads_neither_see_it_nor_let_it_through() -> None:
    def elsewhere() -> None:
        stopping.look()
        with stopping.at_once():
            stopping.look()
        with stopping.held_back():
            stopping.look()

    done: list[str] = []
    with pytest.raises(stopping.Stopped), stopping.held_back():
        stop()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(elsewhere).result(30)
        done.append("held back")
        stopping.look()
    assert done == ["held back"]


def test_a_wait_that_is_looked_through_ends_within_its_next_look() -> None:
    clock = WatchedClock(SystemClock(), stopping.look)
    timer = threading.Timer(0.05, lambda: interrupt_main(signal.SIGTERM))
    began = clock.monotonic()
    with pytest.raises(stopping.Stopped), stopping.held_back():
        timer.start()
        clock.sleep(60.0)
    assert clock.monotonic() - began < 30.0
    timer.join()
