"""VHDs of other programs read by vmkeep, and VHDs of vmkeep read by other programs.

QEMU ignores parents and bitmaps, and libvhdi spreads bitmap bits over their
byte: each is asked only where it is right.
"""

import json
import random
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
import pyvhdi

from tests.generators.vhd_bytes import DIFFERENCING, Block, Sparse, apply, fixed, full_block, resum
from vmkeep.formats.creating import create_disk
from vmkeep.formats.disk import DiskProfile, Kind
from vmkeep.formats.opening import open_path

pytestmark = pytest.mark.qemu

MIB = 1 << 20
GIB = 1 << 30
ID = UUID("12345678-9abc-def0-1122-334455667788")
# Sizes that fit a geometry, that any geometry would round, and around a block's end.
SIZES = [
    512,
    1024,
    MIB,
    2 * MIB - 512,
    2 * MIB,
    2 * MIB + 512,
    7 * MIB + 512,
    34816 * 512,
    100 * MIB,
    GIB + 512,
]


def run(*words: str | Path) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def islands(size: int, seed: int) -> list[tuple[int, bytes]]:
    """A few pieces of random bytes, the first and the last byte of the disk among them."""
    rng = random.Random(seed)
    places = [0, size - 1, *(rng.randrange(size) for _ in range(5))]
    return [(at, rng.randbytes(min(size - at, rng.randint(1, 300_000)))) for at in places]


def write_raw(path: Path, size: int, pieces: list[tuple[int, bytes]]) -> None:
    with path.open("wb") as file:
        for at, data in pieces:
            file.seek(at)
            file.write(data)
        file.truncate(size)


def require_same(path: Path, raw: Path) -> None:
    """The disk at ``path``, read by vmkeep, has the bytes of ``raw`` and only zeros behind them."""
    held = raw.stat().st_size
    with open_path(path) as disk, raw.open("rb") as file:
        assert disk.profile.size >= held
        for at in range(0, held, 8 * MIB):
            expected = file.read(8 * MIB)
            assert disk.read_at(at, len(expected)) == expected
        assert not any(disk.read_at(held, disk.profile.size - held))
        assert [f for f in disk.check() if f.severity == "error"] == []


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("exact", ["on", "off"])
@pytest.mark.parametrize("size", [MIB, 7 * MIB + 512, 100 * MIB])
def test_vhds_made_by_qemu_are_read(tmp_path: Path, subformat: str, exact: str, size: int) -> None:
    raw, vhd = tmp_path / "disk.raw", tmp_path / "disk.vhd"
    write_raw(raw, size, islands(size, 3))
    run(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        f"subformat={subformat},force_size={exact}",
        raw,
        vhd,
    )
    with open_path(vhd) as disk:
        assert disk.profile.kind == subformat
        if exact == "on":
            assert disk.profile.size == size
    require_same(vhd, raw)


def test_blocks_that_qemu_wrote_in_any_order_are_read(tmp_path: Path) -> None:
    raw, vhd = tmp_path / "disk.raw", tmp_path / "disk.vhd"
    run("qemu-img", "create", "-f", "vpc", "-o", "force_size=on", vhd, str(64 * MIB))
    rng = random.Random(4)
    words: list[str] = []
    for _ in range(40):
        at, length = rng.randrange(64 * MIB // 512) * 512, rng.randint(1, 600) * 512
        words += ["-c", f"write -P {rng.randint(1, 255)} {at} {min(length, 64 * MIB - at)}"]
    run("qemu-io", "-f", "vpc", *words, vhd)
    run("qemu-img", "convert", "-f", "vpc", "-O", "raw", vhd, raw)
    require_same(vhd, raw)


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
@pytest.mark.parametrize("size", SIZES)
def test_written_vhds_are_the_same_disk_for_qemu_and_libvhdi(tmp_path: Path, kind: Kind, size: int) -> None:
    raw, vhd = tmp_path / "disk.raw", tmp_path / "disk.vhd"
    pieces = islands(size, size)
    write_raw(raw, size, pieces)
    writer = create_disk(vhd, DiskProfile("vhd", kind, size, disk_id=ID))
    for at, data in pieces:
        writer.write_at(at, data)
    writer.finish()
    assert json.loads(run("qemu-img", "info", "-f", "vpc", "--output", "json", vhd))["virtual-size"] == size
    assert "identical" in run("qemu-img", "compare", "-f", "vpc", "-F", "raw", vhd, raw)
    witness = pyvhdi.open(str(vhd))
    try:
        assert witness.get_media_size() == size
        assert UUID(witness.get_identifier()) == ID
        for at, _ in pieces:
            length = min(100_000, size - at)
            with raw.open("rb") as file:
                file.seek(at)
                assert witness.read_buffer_at_offset(length, at) == file.read(length)
    finally:
        witness.close()


@pytest.mark.parametrize("size", [127 * GIB + 512, 2040 * GIB])
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_the_greatest_disks_keep_their_size_for_qemu(tmp_path: Path, kind: Kind, size: int) -> None:
    vhd = tmp_path / "disk.vhd"
    writer = create_disk(vhd, DiskProfile("vhd", kind, size))
    writer.write_at(size - 512, b"\x5a" * 512)
    writer.finish()
    assert json.loads(run("qemu-img", "info", "-f", "vpc", "--output", "json", vhd))["virtual-size"] == size
    run("qemu-io", "-r", "-f", "vpc", "-c", f"read -P 0x5a {size - 512} 512", vhd)


def test_qemu_can_go_on_writing_into_a_written_dynamic_disk(tmp_path: Path) -> None:
    """The file is more than readable: another program appends blocks to it, and it stays whole."""
    raw, vhd = tmp_path / "disk.raw", tmp_path / "disk.vhd"
    size = 20 * MIB
    pieces = islands(size, 8)
    write_raw(raw, size, pieces)
    writer = create_disk(vhd, DiskProfile("vhd", "dynamic", size))
    for at, data in pieces:
        writer.write_at(at, data)
    writer.finish()
    for name, image in (("vpc", vhd), ("raw", raw)):
        run("qemu-io", "-f", name, "-c", "write -P 3 4M 3M", "-c", "write -P 4 15M 4M", image)
    require_same(vhd, raw)


def test_generated_disks_are_what_libvhdi_takes_them_for(tmp_path: Path) -> None:
    """The generator itself has a witness: whole blocks, and bitmaps in runs of whole bytes."""
    rng = random.Random(11)
    base = rng.randbytes(64 * 4096)
    blocks = {
        n: Block([bool(rng.getrandbits(1))] * 8 + [bool(rng.getrandbits(1))] * 8, rng.randbytes(8192))
        for n in rng.sample(range(32), 20)
    }
    child = Sparse(
        len(base), 8192, blocks, ID, DIFFERENCING, UUID(int=9), parent_name="base.vhd",
        locators=[(b"W2ru", ".\\base.vhd".encode("utf-16-le"), 512)],
    )  # fmt: skip
    (tmp_path / "base.vhd").write_bytes(fixed(base, UUID(int=9)))
    (tmp_path / "child.vhd").write_bytes(child.build())
    below, witness = pyvhdi.open(str(tmp_path / "base.vhd")), pyvhdi.open(str(tmp_path / "child.vhd"))
    try:
        assert UUID(witness.get_parent_identifier()) == UUID(int=9)
        witness.set_parent(below)
        # One block at a time: in a longer read it takes bytes of the parent for those of the child.
        seen = b"".join(witness.read_buffer_at_offset(8192, at) for at in range(0, len(base), 8192))
    finally:
        witness.close()
        below.close()
    assert seen == apply(base, child)
    with open_path(tmp_path / "child.vhd", siblings=[tmp_path / "base.vhd"]) as disk:
        assert disk.read_at(0, len(base)) == seen


def test_a_generated_dynamic_disk_is_what_qemu_takes_it_for(tmp_path: Path) -> None:
    rng = random.Random(12)
    layer = Sparse(
        40 * 65536 + 512, 65536, {n: full_block(rng.randbytes(65536)) for n in rng.sample(range(41), 15)}, ID
    )
    data = layer.build()
    data[28:32] = b"win "  # the size and not the geometry, for QEMU too
    resum(data, 0, 512, 64)
    data[-512:] = data[:512]
    path, raw = tmp_path / "disk.vhd", tmp_path / "disk.raw"
    path.write_bytes(data)
    run("qemu-img", "convert", "-f", "vpc", "-O", "raw", path, raw)
    assert raw.read_bytes() == apply(b"", layer)
    require_same(path, raw)
