"""The re-read audit: read a random part of the held source again and compare it with what is stored of it.

What the repository holds is fetched back through its store, decrypted, and
its id recomputed. What it cannot give back is stored again from the source, so
that no new restore point rests on damage that was met.
"""

import heapq
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, NamedTuple

from vmkeep.backup.errors import AuditFailed
from vmkeep.backup.sampling import CONFIDENCE, choose, most_that_can_differ, sample_size
from vmkeep.clock import Clock
from vmkeep.progress import Progress
from vmkeep.ranges import ByteRange, join_sorted
from vmkeep.repository.condemned import condemn_damaged
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
# So many chunks are looked at together: neighbours in a pack need one opened pack.
_BATCH: Final = LEAF_CHUNKS


@dataclass(frozen=True)
class Held:
    """A disk or file of the source, still held, and what this run stored of it; ``name`` as in a sentence."""

    name: str
    read_into: ReadInto
    written: WrittenMap


@dataclass(frozen=True)
class Audit:
    """What was examined without a difference: ``chunks`` of the ``of`` that were read, chosen by ``seed``.

    ``replaced_packs`` are those that could not give back what this run needs;
    it was stored again, and then this sample was drawn.
    """

    chunks: int
    of: int
    seed: bytes
    replaced_packs: tuple[str, ...] = ()

    def evidence(self) -> dict[str, Any]:
        """Return what the manifest says of it; shares are between 0 and 1."""
        return {
            "chunks": self.chunks,
            "of": self.of,
            "share": self.chunks / self.of if self.of else 1.0,
            "seed": self.seed.hex(),
            "at_most": most_that_can_differ(self.chunks, self.of),
            "confidence": CONFIDENCE,
            "replaced_packs": list(self.replaced_packs),
        }


class _Place(NamedTuple):
    """One chunk: which of the held things, and which chunk of it."""

    part: int
    chunk: int


@dataclass
class _Failures:
    """What could not be read back: where it belongs, and the packs to blame."""

    places: set[_Place] = field(default_factory=set)
    packs: set[PackRef] = field(default_factory=set)

    def add(self, places: Iterable[_Place], error: Tampered | ObjectLost) -> None:
        self.places.update(places)
        self.blame(error)

    def blame(self, error: Tampered | ObjectLost) -> None:
        ref = PackRef.from_name(str(error.context.get("object", "")))
        if ref is not None:
            self.packs.add(ref)

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

    def audit(self, parts: Sequence[Held], share: float) -> Audit:
        """Read a share of what was read again, from source and repository; return what that shows.

        Stores again what the repository does not give back, and looks anew.
        Raises AuditFailed when the two differ, or when the repository keeps failing.
        """
        self.writer.settle()
        chunk = self.repository.parameters.chunk_size
        population = sum(-(-r.length // chunk) for part in parts for r in part.written.read)
        count = sample_size(population, share)
        replaced: set[PackRef] = set()
        failures = _Failures()
        for round_number in range(_ROUNDS + 1):
            if round_number:
                self.writer.store_again(failures.packs, self.repository.reader)
            # What had to be replaced is looked at besides: the new sample alone says how much can differ.
            seed = os.urandom(16)
            drawn = _places(parts, chunk, choose(population, count, seed))
            places = _unique(heapq.merge(drawn, sorted(failures.places)))
            self.progress.begin("reading again", (count + len(failures.places)) * chunk)
            failures = self._examine(parts, places)
            self.progress.end()
            if not failures:
                return Audit(count, population, seed, tuple(sorted(ref.name for ref in replaced)))
            replaced |= failures.packs
            self._condemn(failures.packs)
        raise AuditFailed(
            f"the repository does not give back what was stored in it {_ROUNDS + 1} times.",
            hint="Examine the storage, its controller and this machine's memory; then run again.",
        )

    def _examine(self, parts: Sequence[Held], places: Iterable[_Place]) -> _Failures:
        """Compare these chunks; return what the repository does not give back. Raises AuditFailed."""
        repository = self.repository
        back = ReadBack(repository.store, repository.parameters, repository.ring, repository.index)
        look = _Look(parts, back, repository.parameters.chunk_size)
        failures = _Failures()
        for ref in self.writer.written_packs:
            # A node carries far more than itself, and all of them are a two-thousandth of the data.
            if ref.kind is Kind.NODES:
                try:
                    back.verify_nodes(ref)
                except (Tampered, ObjectLost) as error:
                    failures.blame(error)
        for done, found in _in_threads(look, places):
            failures.places |= found.places
            failures.packs |= found.packs
            self.progress.advance(done * repository.parameters.chunk_size)
            self.journal.renew()
        return failures

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


@dataclass(frozen=True)
class _Look:
    """Compares batches of chunks; may run in many threads."""

    parts: Sequence[Held]
    back: ReadBack
    chunk: int

    def compare(self, places: Sequence[_Place]) -> _Failures:
        """Compare a few chunks, ascending; return those the repository does not give back."""
        failures = _Failures()
        leaves: list[tuple[list[_Place], list[Entry]]] = []
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
            self._compare_leaf(leaf, entries, stored)
        return failures

    def _compare_leaf(
        self, places: Sequence[_Place], entries: Sequence[Entry], stored: dict[bytes, bytes]
    ) -> None:
        """Raise AuditFailed where the source, read again, is not what is stored."""
        held = self.parts[places[0].part]
        lengths = {
            place.chunk: min(self.chunk, held.written.size - place.chunk * self.chunk) for place in places
        }
        ranges = (ByteRange(chunk * self.chunk, length) for chunk, length in lengths.items())
        now = {start: _read(held, start, length) for start, length in join_sorted(ranges)}
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


def _places(parts: Sequence[Held], chunk: int, chosen: Iterator[int]) -> Iterator[_Place]:
    """Turn numbers among all chunks that were read, ascending, into places."""
    number = next(chosen, None)
    first = 0
    for part, held in enumerate(parts):
        for offset, length in held.written.read:
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


def _in_threads(look: _Look, places: Iterable[_Place]) -> Iterator[tuple[int, _Failures]]:
    """Yield how many chunks a batch had, and what failed of it; few batches are in memory at a time."""
    threads = max(2, min(8, os.cpu_count() or 2))
    ahead: deque[tuple[int, Future[_Failures]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="vmkeep-audit") as pool:
        try:
            for batch in _batches(places):
                ahead.append((len(batch), pool.submit(look.compare, batch)))
                if len(ahead) > threads + 1:
                    count, done = ahead.popleft()
                    yield count, done.result()
            while ahead:
                count, done = ahead.popleft()
                yield count, done.result()
        finally:
            for _, future in ahead:
                future.cancel()
