"""A second reader of VHDX chains, for tests: slow, strict, and with nothing in common with the lab.

Written from [MS-VHDX] as vhdx-vhd-spec.md condenses it: the whole file in
memory, the log replayed there, one sector after the other. It refuses what
the specification forbids a writer, so reading with it is also an audit.
"""

import itertools
import struct
import uuid
from pathlib import Path

import google_crc32c

MIB = 1 << 20
ZERO_GUID = bytes(16)
BAT = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
METADATA = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
ITEMS = {
    uuid.UUID(guid).bytes_le: name
    for name, guid in {
        "parameters": "CAA16737-FA36-4D43-B3B6-33F0AA44E76B",
        "size": "2FA54224-CD1B-4876-B211-5DBED83BF4B8",
        "id": "BECA12AB-B2E6-4523-93EF-C309E000C746",
        "logical": "8141BF1D-A96F-4709-BA47-F233A8FAAB5F",
        "physical": "CDA348C7-445D-4471-9CC9-E9885251C556",
        "locator": "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C",
    }.items()
}


def checksum(raw: bytes) -> int:
    """CRC-32C with the field at 4 taken as zero."""
    return int(google_crc32c.value(raw[:4] + bytes(4) + raw[8:]))


def u16(raw: bytes | bytearray, at: int) -> int:
    return int.from_bytes(raw[at : at + 2], "little")


def u32(raw: bytes | bytearray, at: int) -> int:
    return int.from_bytes(raw[at : at + 4], "little")


def u64(raw: bytes | bytearray, at: int) -> int:
    return int.from_bytes(raw[at : at + 8], "little")


class NaiveVhdx:
    """One file, read by the letter; ``replay=False`` looks at it as it lies on the disk."""

    def __init__(self, path: Path, parent: "NaiveVhdx | None" = None, *, replay: bool = True) -> None:
        self.parent = parent
        self.raw = bytearray(path.read_bytes())
        assert len(self.raw) % MIB == 0
        assert self.raw[:8] == b"vhdxfile"
        self.headers = [bytes(self.raw[at : at + 4096]) for at in (64 << 10, 128 << 10)]
        self.header = self._current_header()
        self.file_write_guid, self.data_write_guid, self.log_guid = (
            self.header[at : at + 16] for at in (16, 32, 48)
        )
        self.replayed = 0
        if replay and self.log_guid != ZERO_GUID:
            self._replay()
        self.regions = self._regions()
        self.items = self._items()
        self._understand_items()
        self._check_bat()

    # --- headers, log ------------------------------------------------------------

    def _current_header(self) -> bytes:
        for header in self.headers:
            assert header[:4] == b"head"
            assert u32(header, 4) == checksum(header)
            assert u16(header, 64) == 0, "log version"
            assert u16(header, 66) == 1, "version"
            assert header[80:] == bytes(4096 - 80)
        first, second = (u64(header, 8) for header in self.headers)
        assert first != second
        return self.headers[first < second]

    def _replay(self) -> None:
        length, offset = u32(self.header, 68), u64(self.header, 72)
        assert length % MIB == offset % MIB == 0 < length
        ring = bytes(self.raw[offset : offset + length])
        found = {at: entry for at in range(0, length, 4096) if (entry := self._entry(ring, at))}
        best: list[int] = []
        for start in found:
            run = [start]
            while True:
                last = found[run[-1]]
                following = (run[-1] + len(last)) % length
                if following in run or following not in found:
                    break
                if u64(found[following], 16) != u64(last, 16) + 1:
                    break
                run.append(following)
            head = found[run[-1]]
            if u32(head, 12) in run and (not best or u64(head, 16) > u64(found[best[-1]], 16)):
                best = run
        assert best, "LogGuid without an active sequence"
        head = found[best[-1]]
        assert u64(head, 48) <= len(self.raw), "FlushedFileOffset"
        assert u64(head, 48) % MIB == u64(head, 56) % MIB == 0
        for at in best[best.index(u32(head, 12)) :]:
            self._apply(found[at])
        self.raw += bytes(max(0, u64(head, 56) - len(self.raw)))

    def _entry(self, ring: bytes, at: int) -> bytes | None:
        ring = ring[at:] + ring[:at]
        if ring[:4] != b"loge" or ring[32:48] != self.log_guid:
            return None
        length = u32(ring, 8)
        if not 4096 <= length <= len(ring) or length % 4096 or u32(ring, 4) != checksum(ring[:length]):
            return None
        return ring[:length]

    def _apply(self, entry: bytes) -> None:
        number, count = u64(entry, 16), u32(entry, 24)
        sector = -(-(64 + 32 * count) // 4096) * 4096
        for at in range(64, 64 + 32 * count, 32):
            kind, offset = entry[at : at + 4], u64(entry, at + 16)
            assert u64(entry, at + 24) == number > 0
            assert offset % 4096 == 0
            assert offset >= 192 << 10, "neither the file identifier nor headers go through the log"
            self.replayed += 1
            if kind == b"zero":
                length = u64(entry, at + 8)
                assert u32(entry, at + 4) == length % 4096 == 0 < length
                self.raw[offset : offset + length] = bytes(length)
                continue
            assert kind == b"desc"
            data = entry[sector : sector + 4096]
            assert data[:4] == b"data"
            assert (u32(data, 4) << 32) + u32(data, 4092) == number
            page = entry[at + 8 : at + 16] + data[8:4092] + entry[at + 4 : at + 8]
            self.raw[offset : offset + 4096] = page
            sector += 4096
        assert sector == len(entry)

    # --- regions, metadata -------------------------------------------------------------

    def _regions(self) -> dict[bytes, tuple[int, int]]:
        tables = [bytes(self.raw[at : at + (64 << 10)]) for at in (192 << 10, 256 << 10)]
        assert tables[0] == tables[1]
        table = tables[0]
        assert table[:4] == b"regi"
        assert u32(table, 4) == checksum(table)
        regions = {}
        for at in range(16, 16 + 32 * u32(table, 8), 32):
            offset, length = u64(table, at + 16), u32(table, at + 24)
            assert offset % MIB == length % MIB == 0
            assert offset >= MIB
            assert u32(table, at + 28) == 1
            regions[table[at : at + 16]] = (offset, length)
        assert set(regions) == {BAT, METADATA}
        return regions

    def _items(self) -> dict[str, bytes]:
        offset, length = self.regions[METADATA]
        region = bytes(self.raw[offset : offset + length])
        assert region[:8] == b"metadata"
        items, spans = {}, []
        for at in range(32, 32 + 32 * u16(region, 10), 32):
            name = ITEMS[region[at : at + 16]]
            place, size, flags = u32(region, at + 16), u32(region, at + 20), u32(region, at + 24)
            assert place >= 64 << 10
            assert place + size <= length
            assert flags == (4 if name in {"parameters", "locator"} else 6), name
            spans.append((place, place + size))
            items[name] = region[place : place + size]
        spans.sort()
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
        return items

    def _understand_items(self) -> None:
        self.block_size = u32(self.items["parameters"], 0)
        flags = u32(self.items["parameters"], 4)
        self.is_fixed, self.has_parent = bool(flags & 1), bool(flags & 2)
        self.size = u64(self.items["size"], 0)
        self.disk_id = uuid.UUID(bytes_le=self.items["id"])
        self.sector = u32(self.items["logical"], 0)
        self.ratio = (1 << 23) * self.sector // self.block_size
        assert self.has_parent == ("locator" in self.items) == (self.parent is not None)
        if self.parent is not None:
            keys = self.locator()
            allowed = {uuid.UUID(keys[key]) for key in ("parent_linkage", "parent_linkage2")}
            assert uuid.UUID(bytes_le=self.parent.data_write_guid) in allowed
            assert self.parent.size == self.size
            assert self.parent.sector == self.sector

    def locator(self) -> dict[str, str]:
        """The parent locator's keys and values."""
        raw = self.items["locator"]
        assert uuid.UUID(bytes_le=raw[:16]) == uuid.UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913")
        values = {}
        for at in range(20, 20 + 12 * u16(raw, 18), 12):
            key, value, key_length, value_length = struct.unpack_from("<IIHH", raw, at)
            name = raw[key : key + key_length].decode("utf-16-le")
            assert name not in values
            values[name] = raw[value : value + value_length].decode("utf-16-le")
            assert values[name]
        return values

    # --- blocks ------------------------------------------------------------------------------

    def entry(self, index: int) -> tuple[int, int]:
        """State and file offset of a BAT entry."""
        value = u64(self.raw, self.regions[BAT][0] + 8 * index)
        assert value & 0xFFFF8 == 0, "reserved bits"
        return value & 7, value >> 20 << 20

    def _check_bat(self) -> None:
        blocks = -(-self.size // self.block_size)
        chunks = -(-blocks // self.ratio)
        count = chunks * (self.ratio + 1) if self.has_parent else blocks + (blocks - 1) // self.ratio
        assert count * 8 <= self.regions[BAT][1]
        spans = [(0, MIB), (u64(self.header, 72), u32(self.header, 68)), *self.regions.values()]
        for index in range(count):
            state, place = self.entry(index)
            if index % (self.ratio + 1) == self.ratio:
                assert (state, bool(place)) in ({(0, False), (6, True)} if self.has_parent else {(0, False)})
                length = MIB
            else:
                assert state in ({0, 1, 2, 3, 6, 7} if self.has_parent else {0, 1, 2, 3, 6})
                assert place or state not in {6, 7}
                assert not place or state in {1, 3, 6, 7}
                assert state == 6 or not self.is_fixed
                length = self.block_size
            if place:
                spans.append((place, length))
                assert place + length <= len(self.raw)
        spans.sort()
        for (offset, length), (following, _) in itertools.pairwise(spans):
            assert offset + length <= following, "two structures in one place"

    def contents(self) -> bytes:
        """All bytes of the disk."""
        below = self.parent.contents() if self.parent else bytes(self.size)
        disk = bytearray(below)
        for block in range(-(-self.size // self.block_size)):
            start = block * self.block_size
            stop = min(self.size, start + self.block_size)
            state, place = self.entry(block + block // self.ratio)
            if state in {1, 2, 3}:
                disk[start:stop] = bytes(stop - start)
            elif state == 6:
                disk[start:stop] = self.raw[place : place + stop - start]
            elif state == 7:
                chunk = block // self.ratio
                bitmap_state, bitmap = self.entry((chunk + 1) * self.ratio + chunk)
                assert bitmap_state == 6
                for at in range(start, stop, self.sector):
                    bit = at // self.sector - chunk * (1 << 23)
                    if self.raw[bitmap + bit // 8] >> bit % 8 & 1:
                        where = place + at - start
                        disk[at : at + self.sector] = self.raw[where : where + self.sector]
        return bytes(disk)


def read_chain(files: list[Path], *, replay: bool = True) -> NaiveVhdx:
    """Open files, leaf first, as one chain."""
    reader: NaiveVhdx | None = None
    for path in reversed(files):
        reader = NaiveVhdx(path, reader, replay=replay)
    assert reader is not None
    return reader
