"""Move bytes in bulk: fill a caller's buffer completely, find what is not zero."""

from collections.abc import Iterator
from typing import Final

from vmkeep.formats.errors import SourceChanged
from vmkeep.formats.source import Source

_ZEROS: Final = bytes(1 << 20)
# Small enough to stay in the processor's cache, large enough to make one comparison cheap.
_PIECE: Final = 1 << 16
_ZERO_PIECE: Final = bytes(_PIECE)


def fill_from(source: Source, offset: int, buffer: memoryview) -> None:
    """Fill all of ``buffer`` from the source, whose size was checked when it was opened.

    Raises :class:`SourceChanged` where the file has become shorter since.
    """
    got = source.read_into(offset, buffer)
    if got < len(buffer):
        raise SourceChanged(
            f"{source.name!r} became shorter while it was being read.", file=source.name, offset=offset + got
        )


def fill_with_zeros(buffer: memoryview) -> None:
    """Set all of ``buffer`` to zero."""
    for at in range(0, len(buffer), len(_ZEROS)):
        part = buffer[at : at + len(_ZEROS)]
        part[:] = _ZEROS if len(part) == len(_ZEROS) else _ZEROS[: len(part)]


def is_zero(data: bytes | bytearray | memoryview) -> bool:
    """Tell whether every byte is zero."""
    return next(nonzero_parts(data), None) is None


def nonzero_parts(data: bytes | bytearray | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the parts of ``data`` that hold a non-zero byte, each with its offset; coarse (64 KiB)."""
    view = memoryview(data)
    start = -1
    for at in range(0, len(view), _PIECE):
        piece = view[at : at + _PIECE]
        # bytes() makes the comparison one memcmp; a memoryview is compared element by element.
        if piece[0] or bytes(piece) != (_ZERO_PIECE if len(piece) == _PIECE else _ZERO_PIECE[: len(piece)]):
            if start < 0:
                start = at
        elif start >= 0:
            yield start, view[start:at]
            start = -1
    if start >= 0:
        yield start, view[start:]
