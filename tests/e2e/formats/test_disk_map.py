"""`vmkeep disk map`, as a person and as a program use it, and against what qemu finds at the places told."""

import contextlib
import io
import json
import random
import subprocess
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from tests.e2e.formats.test_disk_commands import chain_in
from tests.generators import vhdx_bytes as gen
from tests.generators.vhd_bytes import Sparse, full_block
from vmkeep.cli import main

pytestmark = pytest.mark.qemu

MIB = 1 << 20
ID = UUID("12345678-9abc-def0-1122-334455667788")
BASE_ID = UUID("00112233-4455-6677-8899-aabbccddeeff")
Row = tuple[int, int, str, int, int | None]


class Result(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


class Told(NamedTuple):
    """What `--json` printed: a row for each piece, and the summary."""

    exit_code: int
    pieces: list[dict[str, Any]]
    summary: dict[str, Any]

    def rows(self) -> list[Row]:
        return [(p["offset"], p["length"], p["kind"], p["depth"], p["place"]) for p in self.pieces]


def invoke(*words: str | Path, out: io.StringIO | None = None) -> Result:
    out, err = out or io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["disk", "map", *(str(word) for word in words)])
    return Result(code, out.getvalue(), err.getvalue())


def told(*words: str | Path) -> Told:
    result = invoke(*words, "--json")
    *pieces, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(piece["message_type"] == "piece" for piece in pieces)
    assert (summary["message_type"], summary["exit_code"]) == ("summary", result.exit_code)
    return Told(result.exit_code, pieces, summary)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return chain_in(tmp_path / "vm", 7 * MIB)


def test_people_get_columns_with_exact_bytes(chain: Path) -> None:
    base = chain.parent / "base.vhd"
    result = invoke(chain)
    assert (result.exit_code, result.stderr) == (0, "")
    expected = f"""\
{chain}
  size    8388608 bytes (8.0 MiB)
  file 0  {chain}
  file 1  {base}
   offset   length  kind    file    place
        0  6291456  data       1        0
  6291456      512  data       0     2560
  6291968  1048064  data       1  6291968
  7340032  1048576  zero       0        -
{chain}: 4 pieces, 7340032 bytes data, 1048576 bytes zero
"""
    assert result.stdout == expected


def test_programs_get_a_line_for_each_piece_and_a_summary(chain: Path) -> None:
    base = chain.parent / "base.vhd"
    found = told(chain)
    assert found.pieces[1] == {
        "message_type": "piece",
        "disk": str(chain),
        "offset": 6 * MIB,
        "length": 512,
        "kind": "data",
        "depth": 0,
        "file": str(chain),
        "place": 2560,
    }
    assert [piece["file"] for piece in found.pieces] == [str(base), str(chain), str(base), str(chain)]
    assert found.summary == {
        "message_type": "summary",
        "exit_code": 0,
        "disks": [
            {
                "file": str(chain),
                "size": 8 * MIB,
                "files": [str(chain), str(base)],
                "pieces": 4,
                "bytes": {"data": 7 * MIB, "zero": MIB, "parent": 0},
                "complete": True,
            }
        ],
    }


def test_a_layer_alone_needs_no_parent(chain: Path) -> None:
    (chain.parent / "base.vhd").unlink()
    found = told("--layer", chain)
    assert found.rows() == [
        (0, 6 * MIB, "parent", 0, None),
        (6 * MIB, 512, "data", 0, 2560),
        (6 * MIB + 512, 2 * MIB - 512, "parent", 0, None),
    ]
    assert (found.exit_code, found.summary["disks"][0]["files"]) == (0, [str(chain)])
    assert found.summary["disks"][0]["bytes"] == {"data": 512, "zero": 0, "parent": 8 * MIB - 512}


def test_a_chain_without_its_parent_ends_with_1_and_the_others_are_mapped(chain: Path) -> None:
    (chain.parent / "base.vhd").unlink()
    other = chain.parent / "other.raw"
    other.write_bytes(bytes(1024))
    result = invoke(chain, other, "--json")
    assert result.exit_code == 1
    *pieces, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(piece["disk"], piece["length"], piece["place"]) for piece in pieces] == [(str(other), 1024, 0)]
    assert [disk["file"] for disk in summary["disks"]] == [str(other)]
    error = json.loads(result.stderr)
    assert (error["message_type"], error["error"], error["code"]) == ("exit_error", "FM005", 1)


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_damage_ends_with_14_after_what_lies_before_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    made = gen.make_vhdx(disk_size=4 * MIB, blocks={0: gen.Block(gen.FULL, b"\1" * MIB)})
    made.set_u64(made.entry_at(2), 5)
    path = tmp_path / "disk.vhdx"
    path.write_bytes(made.data)
    result = invoke(tmp_path / "none.vhd", path, *words)
    assert result.exit_code == 14
    assert "reserved state 5" in result.stderr and "none.vhd" in result.stderr
    lines = result.stdout.splitlines()
    if not words:
        assert lines[-2].split() == ["0", str(MIB), "data", "0", str(made.places[0])]
        assert lines[-1] == f"{path}: not complete, 1 pieces, {MIB} bytes data"
        return
    piece, summary = map(json.loads, lines)
    assert (piece["offset"], piece["length"], piece["place"]) == (0, MIB, made.places[0])
    (disk,) = summary["disks"]
    assert (disk["file"], disk["pieces"], disk["complete"]) == (str(path), 1, False)


class Writing(io.StringIO):
    """Standard output that writes to a file whenever something is printed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def write(self, text: str) -> int:
        with self._path.open("r+b") as file:
            file.write(b"\1")
        return super().write(text)


def test_a_disk_that_is_written_meanwhile_is_not_called_complete(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(4096))
    result = invoke(path, "--json", out=Writing(path))
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[-1])["disks"][0]["complete"] is False
    assert json.loads(result.stderr)["error"] == "FM007"


def test_what_only_the_log_has_is_said_to_be_there(tmp_path: Path) -> None:
    made = gen.make_vhdx(disk_size=MIB, blocks={0: gen.Block(gen.FULL, b"\1" * MIB)}, log_guid=gen.LOG_GUID)
    place, size = made.places[0], len(made.data)
    entry = gen.log_entry(5, 0, [gen.data_write(place, b"\2" * 4096)], flushed=size, last=size)
    made.put(made.log, bytes(gen.ring_of({0: entry})))
    path = tmp_path / "disk.vhdx"
    path.write_bytes(made.data)
    lines = [line.split() for line in invoke(path).stdout.splitlines()]
    assert ["0", "4096", "data", "0", "log"] in lines
    assert ["4096", str(MIB - 4096), "data", "0", str(place + 4096)] in lines
    assert told(path).rows()[0] == (0, 4096, "data", 0, None)


def run(*words: str | Path) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def disk_of_qemu(path: Path, format: str, subformat: str, options: str = "") -> None:
    """Let qemu make a disk of some 40 MiB and write to a few places of it."""
    size, rng = 41 * MIB + 1536, random.Random(f"{format} {subformat} {options}")
    run("qemu-img", "create", "-q", "-f", format, "-o", f"subformat={subformat}{options}", path, str(size))
    writes = []
    for _ in range(8):
        length = rng.choice([512, 4096, MIB, 3 * MIB])
        writes += ["-c", f"write -P {rng.randrange(1, 256)} {rng.randrange(38 * MIB // 512) * 512} {length}"]
    run("qemu-io", "-f", format, *writes, path)


def map_of_qemu(path: Path, format: str) -> list[tuple[int, int, int | None]]:
    """Return ``(start, end, place)`` of what qemu tells, neighbours joined as far as their places allow."""
    joined: list[tuple[int, int, int | None]] = []
    for entry in json.loads(run("qemu-img", "map", "-f", format, "--output", "json", path)):
        start, place = entry["start"], entry.get("offset")
        end = start + entry["length"]
        if joined:
            low, high, before = joined[-1]
            if place == (None if before is None else before + high - low):
                joined[-1] = (low, end, before)
                continue
        joined.append((start, end, place))
    return joined


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_qemu_tells_the_same_places_of_a_vhd(tmp_path: Path, subformat: str) -> None:
    path = tmp_path / "disk.vhd"
    disk_of_qemu(path, "vpc", subformat)
    found = told(path)
    ours = [(offset, offset + length, place) for offset, length, _, _, place in found.rows()]
    assert ours == map_of_qemu(path, "vpc")
    assert {kind for _, _, kind, _, _ in found.rows()} <= {"data", "zero"}
    assert len(ours) > 3 or subformat == "fixed"


def stamped(rows: list[Row]) -> list[tuple[int, int, bytes]]:
    """Return ``(offset in the disk, place in the file, 512 bytes)`` at both ends of each piece of data."""
    rng = random.Random(len(rows))
    stamps = []
    for offset, length, kind, _, place in rows:
        if kind == "data":
            assert place is not None
            stamps += [(offset + at, place + at, rng.randbytes(512)) for at in {0, length - 512}]
    return stamps


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("block_size", ["1M", "8M"])
def test_qemu_reads_from_a_vhdx_what_is_put_at_the_places_told(
    tmp_path: Path, subformat: str, block_size: str
) -> None:
    """qemu tells no places of a VHDX, only that there is data; it shows what is written there instead."""
    path, raw = tmp_path / "disk.vhdx", tmp_path / "disk.raw"
    disk_of_qemu(path, "vhdx", subformat, f",block_size={block_size}")
    rows = told(path).rows()
    (whole,) = map_of_qemu(path, "vhdx")
    assert whole == (0, sum(length for _, length, _, _, _ in rows), None)
    run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", path, raw)
    expected = bytearray(raw.read_bytes())
    for offset, length, kind, _, _ in rows:
        assert kind == "data" or not any(expected[offset : offset + length])
    stamps = stamped(rows)
    assert len(stamps) > 4 or subformat == "fixed"
    with path.open("r+b") as file:
        for offset, place, content in stamps:
            expected[offset : offset + 512] = content
            file.seek(place)
            file.write(content)
    run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", path, raw)
    assert raw.read_bytes() == expected


def test_the_blocks_of_a_vhd_that_lie_in_a_row_are_still_apart_by_their_bitmaps(tmp_path: Path) -> None:
    layer = Sparse(4 * MIB, 2 * MIB, {n: full_block(bytes([n + 1]) * 2 * MIB) for n in (0, 1)}, ID)
    path = tmp_path / "disk.vhd"
    path.write_bytes(layer.build())
    assert told(path).rows() == [
        (0, 2 * MIB, "data", 0, layer.places[0] + 512),
        (2 * MIB, 2 * MIB, "data", 0, layer.places[1] + 512),
    ]
