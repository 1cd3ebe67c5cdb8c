"""The arithmetic of blocks, chunks and table entries: [MS-VHDX] 2.5."""

from dataclasses import dataclass
from functools import cached_property

from vmkeep.formats.vhdx import layout

# A bitmap block is 1 MiB of bits, one for each sector of a chunk.
_SECTORS_PER_CHUNK = 1 << 23


@dataclass(frozen=True)
class Geometry:
    """Sizes of one disk in bytes; payload blocks count from 0, chunks too.

    Behind the entries of each chunk's payload blocks stands the entry of the
    chunk's bitmap block, also in disks that have no bitmaps.
    """

    disk_size: int
    block_size: int
    sector: int
    has_parent: bool

    @cached_property
    def chunk_ratio(self) -> int:
        """Payload blocks per chunk; a power of two."""
        return _SECTORS_PER_CHUNK * self.sector // self.block_size

    @cached_property
    def payload_count(self) -> int:
        return -(-self.disk_size // self.block_size)

    @cached_property
    def chunk_count(self) -> int:
        return -(-self.payload_count // self.chunk_ratio)

    @cached_property
    def entry_count(self) -> int:
        """Entries the table must have at least: [MS-VHDX] 2.5, "number of BAT entries"."""
        if self.has_parent:
            return self.chunk_count * (self.chunk_ratio + 1)
        return self.payload_count + (self.payload_count - 1) // self.chunk_ratio

    @cached_property
    def bitmap_bytes_per_block(self) -> int:
        """Bytes of bitmap that belong to one payload block; a power of two of at least 32."""
        return self.block_size // self.sector // 8

    def payload_index(self, block: int) -> int:
        return block + block // self.chunk_ratio

    def bitmap_index(self, chunk: int) -> int:
        return chunk * (self.chunk_ratio + 1) + self.chunk_ratio

    def payload_blocks_before(self, index: int) -> int:
        """Count the payload entries in front of a table index."""
        return index - index // (self.chunk_ratio + 1)

    def bytes_of_block(self, block: int) -> int:
        """Return how much of a payload block the disk uses; less than a block only for the last."""
        return min(self.block_size, self.disk_size - block * self.block_size)

    def table_bytes(self) -> int:
        return self.entry_count * layout.BAT_ENTRY.size
