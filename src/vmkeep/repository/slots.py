"""The slot table of a pack: where each of its frames lies. `docs/format.md` section 6."""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, overload

STORED, ZSTD = 0, 1
TAG_BYTES: Final = 16
_SLOT = struct.Struct("<32sIIIBxxx")
SLOT_BYTES: Final = _SLOT.size
_WORDS: Final = _SLOT.size // 4


class Slot(NamedTuple):
    """Where one frame lies in its pack; offsets and lengths in bytes."""

    id: bytes
    offset: int
    stored: int
    plain: int
    codec: int


def encode_slots(slots: Iterable[Slot]) -> bytes:
    """Return the table as it is stored, before encryption."""
    return b"".join(_SLOT.pack(*slot) for slot in slots)


class SlotTable(Sequence[Slot]):
    """The slots of a stored pack, each read from the table when it is asked for.

    A pack has thousands, and who opens one mostly wants a few frames of it.
    """

    def __init__(self, table: bytes) -> None:
        """Take a table as it is stored. ValueError when it does not consist of slots."""
        if len(table) % _SLOT.size:
            raise ValueError("not a whole number of slots")
        self._table = table

    def __len__(self) -> int:
        return len(self._table) // _SLOT.size

    @overload
    def __getitem__(self, number: int) -> Slot: ...
    @overload
    def __getitem__(self, number: slice) -> list[Slot]: ...
    def __getitem__(self, number: int | slice) -> Slot | list[Slot]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return Slot._make(_SLOT.unpack_from(self._table, number * _SLOT.size))

    def __iter__(self) -> Iterator[Slot]:
        return map(Slot._make, _SLOT.iter_unpack(self._table))

    def fills(self, start: int, end: int, max_plain: int) -> bool:
        """Tell whether the frames fill ``start`` to ``end`` in this order, and can be what they say."""
        words = array("I", self._table)
        if sys.byteorder == "big":
            words.byteswap()
        offsets, stored, plain, codecs = (words[n::_WORDS] for n in (8, 9, 10, 11))
        return (
            list(accumulate(stored, initial=start)) == [*offsets, end]
            and min(stored, default=TAG_BYTES + 1) > TAG_BYTES
            and min(plain, default=1) > 0
            and max(plain, default=0) <= max_plain
            # With the codec these words hold the bytes that must be zeros.
            and set(codecs) <= {STORED, ZSTD}
        )
