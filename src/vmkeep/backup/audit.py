"""The re-read audit: read a random part of the held source again and compare it with what is stored of it.

What the repository holds is fetched back through its store, decrypted, and
its id recomputed. What a new restore point takes over from its parent is not in
reach of that comparison: a random part of it is read back, and nothing else.
What the repository cannot give back is stored again from the source, so that no
new restore point rests on damage that was met.
"""

import heapq
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeVar

from vmkeep.backup.errors import AuditFailed, ChangesUnusable
from vmkeep.backup.sampling import (
    CONFIDENCE,
    SMALLEST_SAMPLE,
    attempts,
    choose,
    most_that_can_be_damaged,
    most_that_can_differ,
    sample_size,
)
from vmkeep.backup.watched import UNWATCHED, HoldWatch
from vmkeep.clock import Clock
from vmkeep.progress import Progress
from vmkeep.ranges import ByteRange, join_sorted
from vmkeep.repository.condemned import blamed_pack, condemn_damaged
from vmkeep.repository.errors import ObjectLost, Tampered
from vmkeep.repository.journal import Journal
from vmkeep.repository.leaves import ReadInto
from vmkeep.repository.nodes import Child, Entry
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.parameters import LEAF_CHUNKS
from vmkeep.repository.readback import ReadBack
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository
from vmkeep.repository.writer import Writer, WrittenMap

_ROUNDS: Final = 3
# Where damage was met in what was taken over there may be much: so many times more are looked at next.
_GROWTH: Final = 4
# So many chunks are looked at together: neighbours in a pack need one opened pack.
_BATCH: Final = LEAF_CHUNKS
_T = TypeVar("_T")


@dataclass(frozen=True)
class Held:
    """A disk or file of the source, still held, and what this run stored of it; ``name`` as in a sentence."""

    name: str
    read_into: ReadInto
    written: WrittenMap


@dataclass(frozen=True)
class Inherited:
    """What was read back of the chunks taken over: ``found`` at ``tried`` of so many ``places``.

    At the other places that were tried there are zeros. ``compared``: the source
    was read there too, and is the same.
    """

    found: int
    tried: int
    places: int
    compared: bool

    def evidence(self) -> dict[str, Any]:
        """Return what the manifest says of it; ``of`` is how many chunks there can be at most."""
        return {
            "chunks": self.found,
            "of": self.places - (self.tried - self.found),
            "at_most": most_that_can_be_damaged(self.found, self.tried, self.places),
            "compared_with_source": self.compared,
        }


@dataclass(frozen=True)
class Audit:
    """What was examined without a difference: ``chunks`` of the ``of`` that were read, chosen by ``seed``.

    ``replaced_packs`` could not give back what this run needs; it was stored
    again, and then this sample was drawn, the last of so many ``looks``. ``lost``
    tells the same of what was in no pack at all. ``bytes_read`` of the source, in
    all looks together.
    """

    chunks: int
    of: int
    seed: bytes
    inherited: Inherited
    looks: int
    bytes_read: int
    replaced_packs: tuple[str, ...] = ()
    lost: bool = False

    def evidence(self) -> dict[str, Any]:
        """Return what the manifest says of it; shares are between 0 and 1."""
        return {
            "chunks": self.chunks,
            "of": self.of,
            "share": self.chunks / self.of if self.of else 1.0,
            "seed": self.seed.hex(),
            "at_most": most_that_can_differ(self.chunks, self.of),
            "confidence": CONFIDENCE,
            "looks": self.looks,
            "bytes_read": self.bytes_read,
            "inherited": self.inherited.evidence(),
            "replaced_packs": list(self.replaced_packs),
        }


class _Place(NamedTuple):
    """One chunk: which of the held things, and which chunk of it."""

    part: int
    chunk: int


# Places of one leaf, and what the map has there.
_Leaf = tuple[list[_Place], list[Entry]]


@dataclass
class _Failures:
    """What could not be read back: where it belongs, the packs to blame, whether something is in no pack."""

    places: set[_Place] = field(default_factory=set)
    packs: set[PackRef] = field(default_factory=set)
    lost: bool = False

    def add(self, places: Iterable[_Place], error: Tampered | ObjectLost) -> None:
        self.places.update(places)
        self.blame(error)

    def blame(self, error: Tampered | ObjectLost) -> None:
        ref = blamed_pack(error)
        if ref is not None:
            self.packs.add(ref)
        # An index that was wrong is nothing lost: it has been put right.
        self.lost = self.lost or "id" in error.context

    def join(self, other: "_Failures") -> None:
        self.places |= other.places
        self.packs |= other.packs
        self.lost = self.lost or other.lost

    def __bool__(self) -> bool:
        return bool(self.places or self.packs)


@dataclass(frozen=True)
class Auditor:
    """Audits one run before its restore point is published; its sources must be held."""

    repository: Repository
    writer: Writer
    journal: Journal
    clock: Clock
    progress: Progress
    doubt_parent: bool = False
    """Whether what was taken over may be of another disk: then the source is asked about it too."""
    give_up: Callable[[], None] = lambda: None
    """Ends the reads of the source that are under way when the audit ends early."""
    watch: HoldWatch = UNWATCHED

    def audit(self, parts: Sequence[Held], share: float) -> Audit:
        """Read a share of what was read again, from source and repository; return what that shows.

        The same share of what was taken over is read back. Stores again what the
        repository does not give back, and looks anew. Raises AuditFailed when
        the two differ, or when the repository keeps failing, and ChangesUnusable
        when what was taken over is not what the source holds there.
        """
        self.writer.settle()
        met = set(self.writer.met_while_writing)
        if met or self.writer.lost_map:
            # Of the disks that were written before or beside, some may rest on the same.
            self.writer.store_again(met, self.repository.reader)
        chunk = self.repository.parameters.chunk_size
        read = [part.written.read for part in parts]
        population = _count(read, chunk)
        count = sample_size(population, share)
        replaced: set[PackRef] = set()
        lost = False
        failures, tally = _Failures(), _Tally()
        rounds_left, least, looks = _ROUNDS, SMALLEST_SAMPLE, 0
        while True:
            looks += 1
            if failures:
                self.writer.store_again(failures.packs, self.repository.reader)
            lost = lost or self.writer.lost_map
            # Met while writing, just now or before.
            self._condemn(self.writer.met - replaced)
            replaced |= self.writer.met
            # What had to be replaced is looked at besides: the new sample alone says how much can differ.
            seed = os.urandom(16)
            drawn = _places(read, chunk, choose(population, count, seed))
            places = _unique(heapq.merge(drawn, sorted(failures.places)))
            self.progress.begin("reading again", (count + len(failures.places)) * chunk)
            look = self._look(parts, tally)
            failures = self._examine(look, places)
            inherited = self._read_back(look, seed, share, least, failures)
            self.progress.end()
            if not failures:
                names = tuple(sorted(ref.name for ref in replaced))
                return Audit(count, population, seed, inherited, looks, tally.bytes, names, lost)
            # Of packs that were damaged before this run there is an end, however many they are.
            if failures.packs <= replaced | set(self.writer.written_packs):
                rounds_left -= 1
            least *= _GROWTH
            lost = lost or failures.lost
            replaced |= failures.packs
            self._condemn(failures.packs)
            if rounds_left < 0:
                raise AuditFailed(
                    f"the repository does not give back what was stored in it {_ROUNDS + 1} times.",
                    hint="Examine the storage, its controller and this machine's memory; then run again.",
                )

    def _look(self, parts: Sequence[Held], tally: "_Tally") -> "_Look":
        """Return a look that knows nothing but what it reads itself."""
        repository = self.repository
        back = ReadBack(repository.store, repository.parameters, repository.ring, repository.index)
        return _Look(parts, back, repository.parameters.chunk_size, self.doubt_parent, tally)

    def _examine(self, look: "_Look", places: Iterable[_Place]) -> _Failures:
        """Compare these chunks; return what the repository does not give back. Raises AuditFailed."""
        failures = _Failures()
        for ref in self.writer.written_packs:
            # A node carries far more than itself, and all of them are a two-thousandth of the data.
            self.watch.fully()
            if ref.kind is Kind.NODES:
                try:
                    look.back.verify_nodes(ref)
                except (Tampered, ObjectLost) as error:
                    failures.blame(error)
        for done, found in _in_threads(look.compare, places, self.give_up, self.watch):
            failures.join(found)
            self.progress.advance(done * look.chunk)
            self.journal.renew()
        return failures

    def _read_back(
        self, look: "_Look", seed: bytes, share: float, least: int, failures: _Failures
    ) -> Inherited:
        """Read back a sample of what was taken over; the source is asked only in doubt. Adds to ``failures``.

        Places are drawn, not chunks: which of them hold one only the leaves of
        the map tell, and reading all of these would take as long as the disk is large.
        """
        kept = [part.written.inherited for part in look.parts]
        population = _count(kept, look.chunk)
        found = tried = 0
        for numbers in attempts(population, share, seed, least):
            chosen = _places(kept, look.chunk, iter(numbers))
            for done, (stored, failed) in _in_threads(look.read_back, chosen, self.give_up, self.watch):
                tried += done
                found += stored
                failures.join(failed)
                self.progress.advance(0)  # no part of the total, and yet it goes on
                self.journal.renew()
            if failures or found >= SMALLEST_SAMPLE:
                break
        return Inherited(found, tried, population, self.doubt_parent)

    def _condemn(self, packs: set[PackRef]) -> None:
        """See that neither this run nor a later one builds on these packs."""
        self.journal.step("condemning", {"packs": sorted(ref.name for ref in packs)})
        repository = self.repository
        for ref in sorted(packs):
            if repository.store.head(ref.name) is None:
                repository.reader.forget_pack(ref)
            else:
                now = self.clock.now()
                condemn_damaged(repository.store, repository.ring, ref, self.journal.run, now)


class _Tally:
    """Counts bytes that were read, in many threads."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, length: int) -> None:
        with self._lock:
            self.bytes += length


@dataclass(frozen=True)
class _Look:
    """Compares batches of chunks; may run in many threads."""

    parts: Sequence[Held]
    back: ReadBack
    chunk: int
    doubt_parent: bool
    tally: _Tally

    def compare(self, places: Sequence[_Place]) -> _Failures:
        """Compare a few chunks, ascending, with the source; return those the repository does not give back.

        Raises AuditFailed.
        """
        leaves, stored, failures = self._fetch(places)
        for leaf, entries in leaves:
            self._compare_leaf(leaf, entries, stored)
        return failures

    def read_back(self, places: Sequence[_Place]) -> tuple[int, _Failures]:
        """Return how many of a few places, ascending, hold a chunk, and what cannot be given back of them."""
        leaves, stored, failures = self._fetch(places)
        held = 0
        for leaf, entries in leaves:
            for place, entry in zip(leaf, entries, strict=True):
                if not isinstance(entry, Child):
                    held += 1
                    content = stored.get(entry)
                    if content is not None and len(content) != self._length(place):
                        failures.places.add(place)
            if self.doubt_parent:
                self._require_same(leaf, entries, stored)
        return held, failures

    def _require_same(
        self, leaf: Sequence[_Place], entries: Sequence[Entry], stored: dict[bytes, bytes]
    ) -> None:
        try:
            self._compare_leaf(leaf, entries, stored)
        except AuditFailed as error:
            name, offset = error.context["source"], error.context["offset"]
            raise ChangesUnusable(
                f"{name} is not what the parent restore point holds outside the declared ranges, for one at "
                f"offset {offset}: it is another disk, or the list is not of all changes.",
                source=name,
                offset=offset,
            ) from error

    def _length(self, place: _Place) -> int:
        return min(self.chunk, self.parts[place.part].written.size - place.chunk * self.chunk)

    def _fetch(self, places: Sequence[_Place]) -> tuple[list[_Leaf], dict[bytes, bytes], _Failures]:
        """Return the entries of the map by leaf, the chunks by id, and what could not be read of both."""
        failures = _Failures()
        leaves: list[_Leaf] = []
        for (part, number), group in groupby(places, _leaf_of):
            leaf = list(group)
            written = self.parts[part].written
            try:
                entries = DiskMap(self.back, written.root, written.size).leaf(number)
            except (Tampered, ObjectLost) as error:
                failures.add(leaf, error)
                continue
            leaves.append((leaf, [entries[place.chunk % LEAF_CHUNKS] for place in leaf]))
        ids = [entry for _, entries in leaves for entry in entries if not isinstance(entry, Child)]
        stored, errors = self.back.fetch(ids, Kind.CHUNKS)
        for reason in errors:
            failures.blame(reason)
        for leaf, entries in leaves:
            for place, entry in zip(leaf, entries, strict=True):
                if not isinstance(entry, Child) and entry not in stored:
                    failures.places.add(place)
        return leaves, stored, failures

    def _compare_leaf(
        self, places: Sequence[_Place], entries: Sequence[Entry], stored: dict[bytes, bytes]
    ) -> None:
        """Raise AuditFailed where the source, read again, is not what is stored."""
        held = self.parts[places[0].part]
        lengths = {place.chunk: self._length(place) for place in places}
        ranges = (ByteRange(chunk * self.chunk, length) for chunk, length in lengths.items())
        now = {start: _read(held, start, length) for start, length in join_sorted(ranges)}
        self.tally.add(sum(map(len, now.values())))
        start = 0
        for place, entry in zip(places, entries, strict=True):
            at, length = place.chunk * self.chunk, lengths[place.chunk]
            start = at if at in now else start
            content = bytes(length) if isinstance(entry, Child) else stored.get(entry)
            # startswith compares memory without a copy.
            same = content is None or (len(content) == length and now[start].startswith(content, at - start))
            if content is not None and not same:
                offset = at + _first_difference(now[start][at - start : at - start + length], content)
                raise AuditFailed(
                    f"{held.name} reads differently at offset {offset} than it was stored just now.",
                    source=held.name,
                    offset=offset,
                )


def _read(held: Held, offset: int, length: int) -> bytearray:
    buffer = bytearray(length)
    held.read_into(offset, memoryview(buffer))
    return buffer


def _first_difference(now: bytearray, stored: bytes) -> int:
    pairs = enumerate(zip(now, stored, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(now), len(stored)))


def _leaf_of(place: _Place) -> tuple[int, int]:
    return place.part, place.chunk // LEAF_CHUNKS


def _count(ranges: Iterable[Iterable[ByteRange]], chunk: int) -> int:
    """Count the chunks in the ranges of all parts."""
    return sum(-(-r.length // chunk) for part in ranges for r in part)


def _places(ranges: Iterable[Iterable[ByteRange]], chunk: int, chosen: Iterator[int]) -> Iterator[_Place]:
    """Turn numbers among all chunks in the ranges of all parts, ascending, into places."""
    number = next(chosen, None)
    first = 0
    for part, inside in enumerate(ranges):
        for offset, length in inside:
            end = first + -(-length // chunk)
            while number is not None and number < end:
                yield _Place(part, offset // chunk + number - first)
                number = next(chosen, None)
            first = end


def _unique(places: Iterable[_Place]) -> Iterator[_Place]:
    return (place for place, _ in groupby(places))


def _batches(places: Iterable[_Place]) -> Iterator[list[_Place]]:
    batch: list[_Place] = []
    for _, group in groupby(places, _leaf_of):
        batch += group
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _in_threads(
    work: Callable[[Sequence[_Place]], _T],
    places: Iterable[_Place],
    give_up: Callable[[], None],
    watch: HoldWatch,
) -> Iterator[tuple[int, _T]]:
    """Yield how many places a batch had, and what came of it; few batches are in memory at a time."""
    threads = max(2, min(8, os.cpu_count() or 2))
    ahead: deque[tuple[int, Future[_T]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="vmkeep-audit") as pool:
        try:
            for batch in _batches(places):
                ahead.append((len(batch), pool.submit(work, batch)))
                if len(ahead) > threads + 1:
                    count, done = ahead.popleft()
                    watch.await_all([done])
                    yield count, done.result()
            while ahead:
                count, done = ahead.popleft()
                watch.await_all([done])
                yield count, done.result()
        except BaseException:
            give_up()
            raise
        finally:
            for _, future in ahead:
                future.cancel()
