"""Keep what index objects say between runs, in the cache folder of this machine.

Deletable at any time, never needed. Each copy says exactly what the index
objects it names say; what is believed of it is decided when it is opened, from
what the repository lists at that moment. So a copy that is old, or was put back,
tells less, and never anything wrong.

A run that had to fetch much adds a copy of that; copies of about one size
become one, so that there are few, and each entry is rewritten few times.
"""

import os
from array import array
from collections.abc import Callable, Sequence, Set
from datetime import timedelta
from pathlib import Path
from typing import Final

from vmkeep.clock import SystemClock
from vmkeep.objectstore.errors import ObjectMissing
from vmkeep.objectstore.store import ObjectInfo
from vmkeep.objectstore.temporary import ABANDONED_AFTER, TemporaryFile, sweep_folder
from vmkeep.repository.errors import Tampered
from vmkeep.repository.index import PACK_WORD, PREFIX, decode_words, records_of, words_of
from vmkeep.repository.index_copy import CopiedPack, CopyDamaged, IndexCopy, discard, write_copy
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.sorted_entries import (
    RECORD_BYTES,
    Ascending,
    SortedEntries,
    first_to_merge,
    join_all_records,
    joined_parts,
    split_records,
)

# As much as an index keeps in memory, where look-ups are cheaper; and so many that asking for each is slow.
_WORTH_BYTES: Final = 3 << 20
_WORTH_OBJECTS: Final = 64
_MAX_COPIES: Final = 8
_RATIO: Final = 4  # a copy is rewritten when what is added has a quarter of its size
_GATHERED_BYTES: Final = 3 << 20  # of records that are sorted in memory
_MAX_RUNS: Final = 256
_FILE: Final = "index-v1-"
_DEAD_AFTER: Final = timedelta(minutes=1)
_NOWHERE: Final = 0xFFFFFFFF


class IndexCache:
    """The copies of one repository's index on this machine; several processes may use them at once."""

    def __init__(self, folder: Path, ring: KeyRing) -> None:
        """``folder``: where this machine keeps what it can do without; made when something is kept."""
        self._folder = folder / ring.repository.hex()
        self._ring = ring

    def open(self, listed: Set[str]) -> list[IndexCopy]:
        """Open the copies that say something of the ``listed`` index objects; remove all others."""
        opened = None
        for _ in range(3):
            # Another process may just have replaced the copies we saw by one we did not see.
            opened = self._open_all()
            if opened is not None:
                break
        kept: list[IndexCopy] = []
        told: set[str] = set()
        for copy in sorted(opened or [], key=len, reverse=True):
            more = listed & names_of(copy) - told
            if more:
                kept.append(copy)
                told |= more
            else:
                copy.delete()
        return kept

    def _open_all(self) -> list[IndexCopy] | None:
        try:
            paths = [path for path in self._folder.iterdir() if path.name.startswith(_FILE)]
        except OSError:
            return []  # none yet, or none that can be read
        copies: list[IndexCopy] = []
        for path in paths:
            try:
                copies.append(IndexCopy(path, self._ring))
            except FileNotFoundError:
                for copy in copies:
                    copy.remove()
                return None
            except CopyDamaged:
                discard(path)
            except OSError:
                continue  # not ours to read
        return copies

    @staticmethod
    def is_worthwhile(missing: Sequence[ObjectInfo]) -> bool:
        """Tell whether so much would be fetched that the next run had better not do it again."""
        return len(missing) >= _WORTH_OBJECTS or sum(info.size for info in missing) >= _WORTH_BYTES

    def add(
        self,
        copies: Sequence[IndexCopy],
        missing: Sequence[ObjectInfo],
        listed: Set[str],
        fetched: Callable[[ObjectInfo], bytes],
    ) -> list[IndexCopy]:
        """Copy what the ``missing`` objects say; return the copies there are then.

        Objects that ``fetched`` refuses with Tampered or ObjectMissing are left
        out. Raises OSError when this machine cannot keep it; then nothing of it
        is left, and ``copies`` are as before.
        """
        unfinished = self._make_folders()
        gathered = _Gathered(unfinished)
        try:
            for info in missing:
                if _is_plain(info.name):
                    try:
                        gathered.add(info.name, fetched(info))
                    except (Tampered, ObjectMissing):
                        continue  # `check` reports it
            if not gathered.objects:
                return list(copies)
            ascending = sorted(copies, key=len, reverse=True)
            sizes = [*map(len, ascending), len(gathered)]
            first = first_to_merge(sizes, _MAX_COPIES, _RATIO)
            old = ascending[first:]
            made = self._write(gathered, old, listed, unfinished)
        finally:
            gathered.close()
        for copy in old:
            copy.delete()
        if made is not None:
            return [*ascending[:first], made]
        for copy in ascending[:first]:
            copy.remove()
        return self.open(listed)

    def _make_folders(self) -> Path:
        """Make the folders where they are missing; return the one for unfinished files, swept."""
        unfinished = self._folder / "tmp"
        for folder in (self._folder.parent, self._folder, unfinished):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # What a living process writes is locked there, but for the moment between making and locking.
            sweep_folder(str(unfinished), SystemClock().now() + ABANDONED_AFTER - _DEAD_AFTER)
        except OSError:
            pass  # in nobody's way
        return unfinished

    def _write(
        self, gathered: "_Gathered", old: Sequence[IndexCopy], listed: Set[str], unfinished: Path
    ) -> IndexCopy | None:
        """Make a copy of all this; None when another process has it already, and took this one away."""
        sources: list[Ascending] = [*gathered.finish(), *(gathered.renumbered(copy, listed) for copy in old)]
        path = self._folder / f"{_FILE}{os.urandom(16).hex()}"
        file = TemporaryFile(str(unfinished))
        try:
            write_copy(
                file, self._ring, gathered.objects, gathered.packs, joined_parts(sources, join_all_records)
            )
            file.finish()
            os.replace(file.path, path)
        except CopyDamaged as error:
            discard(error.path)  # the next run makes a good one
            raise OSError("a copy made before is damaged") from error
        finally:
            file.remove()
        try:
            return IndexCopy(path, self._ring)
        except FileNotFoundError:
            return None
        except CopyDamaged as error:
            discard(path)
            raise OSError("what was just written cannot be read") from error


class _Gathered:
    """Entries of index objects on their way into a copy, with packs numbered as there."""

    def __init__(self, folder: Path) -> None:
        self.objects: list[str] = []
        self.packs: list[CopiedPack] = []
        self._folder = folder
        self._pending: list[bytes] = []
        self._bytes = 0
        self._runs: list[SortedEntries] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs)) + self._bytes // RECORD_BYTES

    def add(self, name: str, content: bytes) -> None:
        packs, words = decode_words(content, name)
        first, number = len(self.packs), len(self.objects)
        words[PACK_WORD] = array("I", map(first.__add__, words[PACK_WORD]))
        self.objects.append(name.removeprefix(PREFIX))
        self.packs += [CopiedPack(ref, slots, number) for ref, slots in packs]
        self._pending.append(records_of(words))
        self._bytes += len(self._pending[-1])
        if self._bytes >= _GATHERED_BYTES:
            self._write_pending()

    def renumbered(self, copy: IndexCopy, listed: Set[str]) -> "_Renumbered":
        """Take over those objects of a copy that are still there; return its records, numbered anew."""
        numbers: dict[int, int] = {}
        for number, digits in enumerate(copy.objects):
            if PREFIX + digits in listed:
                numbers[number] = len(self.objects)
                self.objects.append(digits)
        places = array("I")
        for pack in copy.packs():
            if pack.object in numbers:
                places.append(len(self.packs))
                self.packs.append(pack._replace(object=numbers[pack.object]))
            else:
                places.append(_NOWHERE)
        return _Renumbered(copy, places)

    def finish(self) -> list[SortedEntries]:
        """Return everything added, in few sorted files."""
        if self._pending:
            self._write_pending()
        return self._runs

    def close(self) -> None:
        for run in self._runs:
            run.remove()

    def _write_pending(self) -> None:
        records = join_all_records(self._pending)
        self._pending, self._bytes = [], 0
        self._runs.append(SortedEntries.write([records], self._folder))
        if len(self._runs) > _MAX_RUNS:
            first = first_to_merge([len(run) for run in self._runs], _MAX_RUNS)
            old = self._runs[first:]
            self._runs[first:] = [SortedEntries.write(joined_parts(old, join_all_records), self._folder)]
            for run in old:
                run.remove()


class _Renumbered:
    """The records of a copy with other pack numbers, without those of packs that have none."""

    def __init__(self, copy: IndexCopy, places: "array[int]") -> None:
        self._copy = copy
        self._places = places
        self._partial = _NOWHERE in places

    def __len__(self) -> int:
        return len(self._copy)

    def between(self, low: int, high: int) -> bytes:
        words = words_of(self._copy.between(low, high))
        words[PACK_WORD] = array("I", map(self._places.__getitem__, words[PACK_WORD]))
        records = records_of(words)
        if not self._partial:
            return records
        nowhere = _NOWHERE.to_bytes(4, "little")
        return b"".join(record for record in split_records([records]) if record[16:20] != nowhere)


def names_of(copy: IndexCopy) -> set[str]:
    """Return the index objects whose content a copy has."""
    return {PREFIX + digits for digits in copy.objects}


def _is_plain(name: str) -> bool:
    """Tell whether a copy can name this index object: by an id, as vmkeep does."""
    digits = name.removeprefix(PREFIX)
    return len(digits) == 32 and not digits.strip("0123456789abcdef")
