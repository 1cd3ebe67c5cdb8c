"""Whatever windows a host allows and however much of each it processes, the union is exactly the changes."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmkeep.host.hyperv import ChangesUnknown
from vmkeep.host.hyperv.changes import LARGEST_WINDOW, SMALLEST_WINDOW, Answer, walk
from vmkeep.ranges import ByteRange, clip, normalise

pytestmark = pytest.mark.quick

MIB = 1 << 20


@dataclass
class Host:
    """A disk with changes, and a host's moods: what does not fit, and how far it gets."""

    size: int
    changes: list[ByteRange]
    moods: list[int]
    fits: int
    questions: int = 0

    def ask(self, window: ByteRange) -> Answer | None:
        assert 0 < window.length <= LARGEST_WINDOW
        assert window.end <= self.size
        self.questions += 1
        mood = self.moods[self.questions % len(self.moods)] if self.moods else 100
        inside = clip(self.changes, window.offset, window.end)
        if window.length > SMALLEST_WINDOW and (len(inside) > self.fits or mood < 10):
            return None
        # One that tells less with each answer is given up (tests/unit/host/hyperv/test_changes.py).
        processed = max(min(window.length, 4 * MIB), window.length * mood // 100)
        return Answer(processed, clip(inside, window.offset, window.offset + processed))


disks = st.integers(1, 200 * 1024).map(lambda mib: mib * MIB)


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    size = draw(disks) + draw(st.integers(0, 4096))
    ranges = st.builds(ByteRange, st.integers(0, size - 1), st.integers(1, 512 * MIB))
    changes = clip(normalise(draw(st.lists(ranges, max_size=60))), 0, size)
    moods = draw(st.lists(st.integers(0, 100), max_size=8))
    if moods and max(moods) < 50:
        moods.append(100)
    return Host(size, changes, moods, draw(st.integers(1, 40)))


@given(hosts())
def test_the_union_is_exactly_the_changes(host: Host) -> None:
    assert normalise(walk(host.size, host.ask)) == host.changes


@given(disks, st.integers(0, 50))
def test_a_quiet_disk_costs_a_question_for_each_largest_window(size: int, count: int) -> None:
    host = Host(size, [ByteRange(n * 4096 * 2, 4096) for n in range(count) if n * 8192 < size], [], 4000)
    list(walk(size, host.ask))
    assert host.questions == -(-size // LARGEST_WINDOW)


@given(disks, st.integers(-5, 0) | st.integers(1, 5).map(lambda more: LARGEST_WINDOW + more))
def test_impossible_progress_is_refused(size: int, processed: int) -> None:
    with pytest.raises(ChangesUnknown):
        list(walk(size, lambda window: Answer(processed, [])))


@given(disks)
def test_a_host_for_which_nothing_fits_is_given_up_soon(size: int) -> None:
    asked: list[ByteRange] = []
    with pytest.raises(ChangesUnknown):
        list(walk(size, asked.append))
    assert len(asked) <= 14
    assert asked[-1].length <= SMALLEST_WINDOW
