"""Whatever is written, in any order: it is read back, in every format that can be written."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmkeep.formats.creating import create_disk
from vmkeep.formats.disk import DiskProfile, Format, Kind
from vmkeep.formats.opening import open_path

pytestmark = pytest.mark.quick

KIB, MIB = 1 << 10, 1 << 20


TARGETS = [("vhd", "dynamic"), ("vhd", "fixed"), ("vhdx", "dynamic"), ("vhdx", "fixed"), ("raw", "fixed")]


@given(
    target=st.sampled_from(TARGETS),
    sectors=st.integers(1, 4000),
    writes=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 300 * KIB), st.integers(0, 255), st.booleans()), max_size=8
    ),
)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_back(
    target: tuple[Format, Kind], sectors: int, writes: list[tuple[float, int, int, bool]]
) -> None:
    size = sectors * 512
    model = bytearray(size)
    block_size = {("vhd", "dynamic"): 512 * KIB, ("vhdx", "dynamic"): MIB, ("vhdx", "fixed"): MIB}.get(target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"disk.{target[0]}")
        writer = create_disk(path, DiskProfile(target[0], target[1], size, block_size=block_size))
        for where, length, value, islands in writes:
            offset = int(where * (size - 1))
            data = bytearray([value]) * min(length, size - offset)
            if islands:  # zeros with single bytes in them, over what may be there already
                data = bytearray(len(data))
                data[::70_001] = bytes([value]) * len(data[::70_001])
            writer.write_at(offset, data)
            model[offset : offset + len(data)] = data
        writer.finish()
        with open_path(path) as disk:
            assert disk.profile.size == size
            assert disk.read_at(0, size) == model
            assert list(disk.check()) == []
