"""Whatever is altered, cut, moved, replayed or forged is found, and the object is named."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.generators.repository_bytes import (
    PACK_OF_CHUNKS,
    PACK_OF_NODES,
    STORED,
    ZSTD,
    Content,
    Frame,
    RepositoryBytes,
    WrittenPoint,
    canonical,
    key_object,
    node_bytes,
    with_checksum,
    with_sum,
)
from tests.unit.tools.read_repository_run import Read, Said

pytestmark = pytest.mark.quick
DISK = Content("c", 300_000, {0: random.Random(7).randbytes(200_000), 299_999: b"!"})
TOP = 2**32 - 1


def three_points() -> tuple[RepositoryBytes, list[WrittenPoint]]:
    repo = RepositoryBytes()
    disks = [DISK, Content("c", 300_000, {0: b"two"}), Content("c", 300_000, {0: b"three"})]
    return repo, [repo.add_point(disks=[disk], files=[Content("vm.vmcx", 3, {0: b"abc"})]) for disk in disks]


def check(repo: RepositoryBytes, directory: Path, read: Read) -> Said:
    return read(repo.write(directory / "r"), "check")


def named(result: Said, name: str) -> list[str]:
    return [line for line in result.problems if line.startswith(name + ":")]


OBJECTS = [name for name in three_points()[0].objects if not name.startswith(("format", "keys/"))]


@pytest.mark.parametrize("name", OBJECTS, ids=lambda name: name.split("/")[0] + "-" + name[-4:])
def test_a_flipped_bit_anywhere_and_any_cut_is_found_and_named(tmp_path: Path, read: Read, name: str) -> None:
    repo, points = three_points()
    whole = repo.objects[name]
    generator = random.Random(name)
    fields = [0, 8, 24, 25, 40, -1, -9, -41, -57, -64]  # of a pack: header and footer
    places = {place % len(whole) for place in fields} | {generator.randrange(len(whole)) for _ in range(3)}
    bent = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in sorted(places)]
    bent += [whole[:size] for size in (0, 1, len(whole) // 2, len(whole) - 1)] + [whole + b"\0"]
    directory = repo.write(tmp_path / "r")
    for data in bent:
        (directory / name).write_bytes(data)
        result = read(directory, "check")
        assert result.code == 1
        assert named(result, name), result
        assert named(read(directory, "scrub", password=""), name), "without a password, too"
        restored = read(directory, "restore", points[0].id, "--disk", "c", "--to", "-")
        assert (
            restored.out == DISK.restored()
            if restored.code == 0
            else DISK.restored().startswith(restored.out)
        )


def test_a_flip_in_format_or_key_gives_no_wrong_data(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    directory = repo.write(tmp_path / "r")
    for name in [name for name in repo.objects if name == "format" or name.startswith("keys/")]:
        for at in range(0, len(repo.objects[name]), 7):
            data = bytearray(repo.objects[name])
            data[at] ^= 1
            (directory / name).write_bytes(data)
            result = read(directory, "restore", points[0].id, "--disk", "c", "--to", "-")
            same = (
                json_or_none(bytes(data)) == json_or_none(repo.objects[name]) or b'"generation"' not in data
            )
            assert result.code == 1 or (result.out == DISK.restored() and (same or name == "format"))
        (directory / name).write_bytes(repo.objects[name])


def json_or_none(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


@pytest.mark.parametrize("which", ["packs", "maps"])
def test_a_removed_pack_is_missed_by_everybody(tmp_path: Path, read: Read, which: str) -> None:
    repo, points = three_points()
    pack = next(name for name in points[0].packs if name.startswith(which))
    del repo.objects[pack]
    result = check(repo, tmp_path, read)
    assert named(result, pack)
    assert any(line.startswith(points[0].manifest + ": disks[0] 'c': bytes 0 to") for line in result.problems)
    assert named(read(tmp_path / "r", "scrub", password=""), pack)
    assert read(tmp_path / "r", "restore", points[0].id, "--disk", "c", "--to", "-").code == 1
    assert read(tmp_path / "r", "restore", points[1].id, "--disk", "c", "--to", "-").code == 0


def test_a_failed_restore_leaves_no_file_of_that_name(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    del repo.objects[points[0].packs[0]]
    target = tmp_path / "c.raw"
    result = read(repo.write(tmp_path / "r"), "restore", points[0].id, "--disk", "c", "--to", str(target))
    assert result.code == 1
    assert not target.exists()


def test_two_packs_cannot_swap_their_names(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    one, two = points[0].packs[0], points[1].packs[0]
    repo.objects[one], repo.objects[two] = repo.objects[two], repo.objects[one]
    result = check(repo, tmp_path, read)
    assert "under a wrong name" in named(result, one)[0]
    assert named(result, two)


def test_two_packs_cannot_swap_even_with_headers_and_checksums_made_to_fit(
    tmp_path: Path, read: Read
) -> None:
    repo, points = three_points()
    one, two = points[0].packs[0], points[1].packs[0]
    a, b = repo.objects[one], repo.objects[two]
    repo.objects[one] = with_checksum(a[:32] + b[32:-40])
    repo.objects[two] = with_checksum(b[:32] + a[32:-40])
    result = read(repo.write(tmp_path / "r"), "restore", points[0].id, "--disk", "c", "--to", "-")
    assert result.code == 1
    assert "trailer: is not authentic" in named(result, one)[0]
    assert named(result, two)


def test_a_pack_of_chunks_cannot_become_one_of_nodes(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    name = points[0].packs[0]
    moved = name.replace("packs/", "maps/")
    repo.objects[moved] = repo.objects[name]
    assert "other kind" in named(check(repo, tmp_path, read), moved)[0]
    data = repo.objects[name]
    repo.objects[moved] = with_checksum(data[:24] + b"\2" + data[25:-40])
    result = check(repo, tmp_path, read)
    assert any("kind" not in line and "trailer: is not authentic" in line for line in named(result, moved))


def test_frames_cannot_be_swapped_inside_a_pack(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes(codec=STORED)
    point = repo.add_point(disks=[Content("c", 131072, {0: b"a" * 65536, 65536: b"b" * 65536})])
    data, step = repo.objects[point.packs[0]], 65536 + 16
    swapped = data[:32] + data[32 + step : 32 + 2 * step] + data[32 : 32 + step] + data[32 + 2 * step : -40]
    repo.objects[point.packs[0]] = with_checksum(swapped)
    result = check(repo, tmp_path, read)
    assert len([line for line in named(result, point.packs[0]) if "not authentic" in line]) == 2


@pytest.mark.parametrize("prefix", ["points/", "seals/"])
def test_a_box_cannot_be_replayed_under_another_name(tmp_path: Path, read: Read, prefix: str) -> None:
    repo, points = three_points()
    repo.objects[prefix + points[2].place] = repo.objects[prefix + points[0].place]
    result = check(repo, tmp_path, read)
    assert named(result, prefix + points[2].place)
    listed = read(tmp_path / "r", "list")
    assert points[2].id.encode() not in listed.out
    assert listed.code == 1


def test_a_box_of_another_repository_is_refused(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    twin, twins = three_points()
    assert twin.objects[twins[2].seal] == repo.objects[points[2].seal], "same seed, same bytes"
    foreign = RepositoryBytes(seed=2)
    foreign.master = repo.master
    repo.objects[points[2].seal] = foreign.objects[foreign.box(points[2].seal, {"version": 1})]
    assert "not authentic" in named(check(repo, tmp_path, read), points[2].seal)[0]


@pytest.mark.parametrize(
    ("seal", "why"),
    [
        ({"point": "points/" + "0" * 32 + "/20260102T000000Z-" + "0" * 32}, "not a seal of its point"),
        ({"state": "Sealed"}, "not a seal of its point"),
        ({"version": 2}, "`version` is not from 1 to 1"),
    ],
)
def test_an_authentic_seal_that_speaks_of_something_else_seals_nothing(
    tmp_path: Path, read: Read, seal: dict[str, Any], why: str
) -> None:
    repo, _ = three_points()
    point = repo.add_point(disks=[DISK], seal=seal)
    result = check(repo, tmp_path, read)
    assert why in named(result, point.seal)[0]
    assert point.id.encode() not in read(tmp_path / "r", "list").out


def test_another_authentic_manifest_than_the_sealed_one_is_refused(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    point = repo.add_point(disks=[DISK], seal={"digest": points[0].digest})
    assert "not the manifest that was sealed" in named(check(repo, tmp_path, read), point.manifest)[0]


def test_a_manifest_cannot_claim_another_vm_or_point_than_its_name(tmp_path: Path, read: Read) -> None:
    repo, _ = three_points()
    first = repo.add_point(disks=[DISK], manifest={"vm": {"id": "other", "name": "other"}})
    second = repo.add_point(disks=[DISK], manifest={"point": "0" * 32})
    result = check(repo, tmp_path, read)
    third = repo.add_point(disks=[DISK], manifest={"time": "2026-01-02T00:06:01Z"})
    assert "another VM, point or time" in named(result, first.manifest)[0]
    assert "another VM, point or time" in named(result, second.manifest)[0]
    assert "another VM, point or time" in named(check(repo, tmp_path / "2", read), third.manifest)[0]


def test_a_vanished_point_is_named_and_a_vanished_seal_too(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    repo.forget(points[1], tombstone=False)
    result = check(repo, tmp_path, read)
    assert "vanished" in named(result, points[1].manifest)[0]
    repo, points = three_points()
    del repo.objects[points[1].seal]
    assert "vanished" in named(check(repo, tmp_path / "2", read), points[1].manifest)[0]
    repo, points = three_points()
    del repo.objects[points[1].manifest]
    assert named(check(repo, tmp_path / "3", read), points[1].manifest)


def test_a_missing_inventory_is_named(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    del repo.objects[points[0].inventory]
    assert any(points[0].inventory in line for line in check(repo, tmp_path, read).problems)


def test_an_inventory_with_a_right_sum_but_no_key_behind_it_is_refused(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    text = repo.objects[points[0].inventory].decode()
    lines = [line for line in text.split("\n") if points[0].packs[0] not in line]
    repo.objects[points[0].inventory] = with_sum("\n".join(lines[:-1]) + "\n")
    assert "not authentic" in named(check(repo, tmp_path, read), points[0].inventory)[0]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("chunk_size", 131072, "format hash"),
        ("created", "2027-01-02T03:04:05Z", "format hash"),
        ("new parameter", True, "format hash"),
        ("chunk_size", 65537, "power of two"),
        ("chunk_size", 1 << 40, "chunk_size"),
        ("chunk_size", 65536.0, "chunk_size"),
        ("fanout", 0, "fanout"),
        ("leaf_chunks", TOP, "leaf_chunks"),
        ("version", 2, "version above 1"),
        ("version", True, "version"),
        ("format", "some repository", "not that of a vmkeep repository"),
        ("repository", "XY" * 16, "hex"),
    ],
)
def test_a_forged_parameter_is_refused(tmp_path: Path, read: Read, key: str, value: object, why: str) -> None:
    repo, _ = three_points()
    repo.objects["format"] = json.dumps({**repo.parameters, key: value}).encode()
    result = check(repo, tmp_path, read)
    assert (result.code, result.out) == (1, b"")
    assert why in result.problems[0]


def test_a_forged_parameter_with_the_keys_made_to_fit_opens_nothing(tmp_path: Path, read: Read) -> None:
    repo, _ = three_points()
    repo.parameters["chunk_size"] = 131072
    repo.objects["format"] = json.dumps(repo.parameters).encode()
    for name in [name for name in repo.objects if name.startswith("keys/")]:
        record = {**json.loads(repo.objects[name]), "format": repo.format_hash().hex()}
        repo.objects[name] = key_object(record)
    result = check(repo, tmp_path, read)
    assert result.out == b""
    assert named(result, "keys/")


def test_generation_and_white_space_are_not_part_of_the_format_hash(tmp_path: Path, read: Read) -> None:
    repo, _ = three_points()
    repo.objects["format"] = canonical({**repo.parameters, "generation": 7})
    assert check(repo, tmp_path, read).code == 0


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ({"memory_kib": 1048577}, "memory_kib"),
        ({"memory_kib": TOP}, "memory_kib"),
        ({"memory_kib": 0}, "memory_kib"),
        ({"iterations": 11}, "iterations"),
        ({"iterations": -1}, "iterations"),
        ({"lanes": 17}, "lanes"),
        ({"name": "scrypt"}, "unknown key derivation"),
        ({"salt": ""}, "salt"),
    ],
)
def test_hostile_key_derivations_are_refused(
    tmp_path: Path, read: Read, numbers: dict[str, object], why: str
) -> None:
    repo, _ = three_points()
    (name,) = [name for name in repo.objects if name.startswith("keys/")]
    record = json.loads(repo.objects[name])
    repo.objects[name] = key_object({**record, "kdf": {**record["kdf"], **numbers}})
    result = check(repo, tmp_path, read)
    assert (result.code, result.out) == (1, b"")
    assert why in named(result, name)[0]


@pytest.mark.parametrize(
    ("length", "count"), [(TOP, TOP), (TOP, 1), (64, TOP), (48 * 1_000_001 + 16, 1_000_001), (0, 0), (16, 0)]
)
def test_hostile_footers_are_refused(tmp_path: Path, read: Read, length: int, count: int) -> None:
    repo, points = three_points()
    name = points[0].packs[0]
    numbers = length.to_bytes(4, "little") + count.to_bytes(4, "little")
    repo.objects[name] = with_checksum(repo.objects[name][:-64] + numbers + bytes(16))
    assert named(check(repo, tmp_path, read), name)
    assert named(read(tmp_path / "r", "scrub", password=""), name)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"plain": TOP}, "impossible plain length"),
        ({"plain": 65537}, "impossible plain length"),
        ({"plain": 0}, "impossible plain length"),
        ({"plain": 699}, "it may be 699"),
        ({"plain": 701}, "it may be 701"),
        ({"offset": 0}, "impossible place"),
        ({"offset": TOP}, "impossible place"),
        ({"stored": TOP}, "impossible place"),
        ({"stored": 16}, "impossible place"),
        ({"stored": 17}, "do not end where"),
        ({"codec": 0}, "another length than promised"),
        ({"codec": 2}, "codec"),
        ({"codec": 255}, "codec"),
    ],
    ids=str,
)
def test_hostile_slots_are_refused_though_they_are_authentic(
    tmp_path: Path, read: Read, claims: dict[str, int], why: str
) -> None:
    repo, _ = three_points()
    data = b"hostile" * 100
    name = repo.pack(PACK_OF_CHUNKS, [Frame(repo.chunk_id(data), data, ZSTD, claims)])
    assert why in named(check(repo, tmp_path, read), name)[0]


def test_bytes_that_no_slot_describes_are_refused(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    name = points[1].packs[0]
    data = repo.objects[name]
    trailer = len(data) - 64 - 48 - 16
    repo.objects[name] = with_checksum(data[:trailer] + b"hidden" + data[trailer:-40])
    assert "do not end where its trailer begins" in named(check(repo, tmp_path, read), name)[-1]


def bomb(size: int, *, declared: bool) -> bytes:
    compressor = zstandard.ZstdCompressor(write_content_size=declared).compressobj(size if declared else -1)
    piece = bytes(1 << 20)
    return b"".join(compressor.compress(piece) for _ in range(size >> 20)) + compressor.flush()


# A zstd header by hand (RFC 8878 3.1.1.1): content size of 100 GiB in 8 bytes, one empty last block.
CLAIM_100_GIB = b"\x28\xb5\x2f\xfd\xc0\x00" + (100 << 30).to_bytes(8, "little") + b"\x01\x00\x00"


@pytest.mark.parametrize(
    "content",
    [
        CLAIM_100_GIB,
        bomb(64 << 20, declared=True),
        bomb(64 << 20, declared=False),
        zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 65536),
        b"\x28\xb5\x2f\xfd\x61\x07" + zstandard.compress(b"x" * 65536)[5:],
        b"\x50\x2a\x4d\x18" + (65536).to_bytes(4, "little") + bytes(65536),
        zstandard.compress(b"x" * 65536) * 2,
        b"not zstd",
        b"",
    ],
    ids=[
        "100 GiB",
        "declared bomb",
        "undeclared bomb",
        "no size",
        "dictionary",
        "skippable",
        "two frames",
        "no zstd",
        "empty",
    ],
)
def test_hostile_compressed_frames_are_refused(tmp_path: Path, read: Read, content: bytes) -> None:
    repo, _ = three_points()
    data = b"x" * 65536
    name = repo.pack(PACK_OF_CHUNKS, [Frame(repo.chunk_id(data), data, ZSTD, stored_as=content)])
    assert any(line.startswith(name) for line in check(repo, tmp_path, read).problems)


def test_a_frame_whose_content_is_not_its_id_is_refused(tmp_path: Path, read: Read) -> None:
    repo, _ = three_points()
    name = repo.pack(PACK_OF_CHUNKS, [Frame(repo.chunk_id(b"right"), b"wrong")])
    assert "another content" in named(check(repo, tmp_path, read), name)[0]


HEAD = b"VMKBOX01\1" + bytes(7)
BOXES: dict[str, Callable[[RepositoryBytes, str], object]] = {
    "claims 100 GiB": lambda repo, name: repo.raw_box(name, HEAD, bytes(16), CLAIM_100_GIB),
    "bomb": lambda repo, name: repo.raw_box(name, HEAD, bytes(16), bomb(300 << 20, declared=True)),
    "codec 2": lambda repo, name: repo.box(name, {"version": 1}, codec=2),
    "magic": lambda repo, name: repo.box(name, {"version": 1}, magic=b"VMKBOX02"),
    "deep": lambda repo, name: repo.box(name, b"[" * 200_000),
    "twice": lambda repo, name: repo.box(name, b'{"version": 1, "version": 1}'),
    "long number": lambda repo, name: repo.box(name, b'{"version": ' + b"1" * 9000 + b"}"),
    "list": lambda repo, name: repo.box(name, b"[]"),
    "not utf-8": lambda repo, name: repo.box(name, b'{"version": 1, "a": "\xff"}'),
    "half a pair": lambda repo, name: repo.box(name, b'{"version": 1, "a": "\\ud800"}'),
    "later version": lambda repo, name: repo.box(name, {"version": 2}),
    "empty": lambda repo, name: repo.box(name, b""),
}


@pytest.mark.parametrize("what", BOXES)
def test_hostile_boxes_are_refused_though_they_are_authentic(tmp_path: Path, read: Read, what: str) -> None:
    repo, points = three_points()
    BOXES[what](repo, points[1].manifest)
    assert named(check(repo, tmp_path, read), points[1].manifest)
    assert points[1].id.encode() not in read(tmp_path / "r", "list").out


@pytest.mark.parametrize(
    "head", [b"VMKBOX01\0\1" + bytes(6), b"VMKBOX01\0" + bytes(6) + b"\1", b"VMKBOX01\2" + bytes(7)]
)
def test_a_box_that_uses_reserved_bytes_or_codecs_is_refused(tmp_path: Path, read: Read, head: bytes) -> None:
    repo, points = three_points()
    name = f"evidence/{points[0].place}/{'5' * 32}"
    repo.raw_box(name, head, bytes(16), b'{"version": 1}')
    assert "not a box" in named(check(repo, tmp_path, read), name)[0]


ZERO, GONE = (0, b""), (1, b"?" * 32)
NODES = {
    "state 3": node_bytes(0, [(3, b"")] + [ZERO] * 63),
    "nothing in it": node_bytes(0, [ZERO] * 64),
    "wrong level": node_bytes(1, [GONE] + [ZERO] * 1023),
    "wrong fanout": node_bytes(0, [GONE] + [ZERO] * 31),
    "one id too few": node_bytes(0, [GONE] + [ZERO] * 63)[:-32],
    "one id too many": node_bytes(0, [GONE] + [ZERO] * 63) + b"?" * 32,
    "2^32-1 ids": node_bytes(0, [GONE] + [ZERO] * 63)[:4]
    + b"\xff" * 4
    + node_bytes(0, [GONE] + [ZERO] * 63)[8:],
    "beyond the end": node_bytes(0, [ZERO] * 5 + [GONE] + [ZERO] * 58),
    "excluded beyond the end": node_bytes(0, [ZERO] * 5 + [(2, b"")] + [ZERO] * 58),
    "excluded and not listed": node_bytes(0, [(2, b"")] + [ZERO] * 63),
    "missing chunk": node_bytes(0, [GONE] + [ZERO] * 63),
    "short": b"\0\0",
}


@pytest.mark.parametrize("what", NODES)
def test_hostile_nodes_are_refused_though_they_are_authentic(tmp_path: Path, read: Read, what: str) -> None:
    repo, _ = three_points()
    leaf = NODES[what]
    root = node_bytes(1, [(1, repo.node_id(leaf))] + [ZERO] * 1023)
    repo.pack(PACK_OF_NODES, [Frame(repo.node_id(node), node) for node in (leaf, root)])
    entry = {"name": "c", "size": 300_000, "root": repo.node_id(root).hex()}
    point = repo.add_point(manifest={"disks": [entry]})
    assert named(check(repo, tmp_path, read), point.manifest)
    assert read(tmp_path / "r", "restore", point.id, "--disk", "c", "--to", "-").code == 1


def test_only_a_leaf_can_exclude(tmp_path: Path, read: Read) -> None:
    repo, _ = three_points()
    root = node_bytes(1, [(2, b"")] + [ZERO] * 1023)
    repo.pack(PACK_OF_NODES, [Frame(repo.node_id(root), root)])
    entry = {"name": "c", "size": 9, "root": repo.node_id(root).hex(), "excluded": [[0, 9, "page file"]]}
    point = repo.add_point(manifest={"disks": [entry]})
    assert "excludes" in named(check(repo, tmp_path, read), point.manifest)[0]
    assert read(tmp_path / "r", "restore", point.id, "--disk", "c", "--to", "-").code == 1


def test_a_chunk_of_another_length_than_its_place_is_refused(tmp_path: Path, read: Read) -> None:
    repo, _ = three_points()
    nodes: list[Frame] = []
    root = repo.map(Content("c", 65536, {0: b"x" * 65536}), [], nodes)
    repo.pack(PACK_OF_NODES, nodes)
    repo.pack(PACK_OF_CHUNKS, [Frame(repo.chunk_id(b"x" * 65536), b"x" * 65536)])
    assert root is not None
    point = repo.add_point(manifest={"disks": [{"name": "c", "size": 65535, "root": root.hex()}]})
    assert "another length" in named(check(repo, tmp_path, read), point.manifest)[0]
    assert read(tmp_path / "r", "restore", point.id, "--disk", "c", "--to", "-").code == 1


@pytest.mark.parametrize(
    "manifest",
    [
        {"disks": [{"name": "c", "size": 2**63, "root": None}]},
        {"disks": [{"name": "c", "size": -1, "root": None}]},
        {"disks": [{"name": "c", "size": True, "root": None}]},
        {"disks": [{"name": "c", "size": 5}]},
        {"disks": [{"name": "c", "size": 5, "root": None, "excluded": [[0, 6, "too long"]]}]},
        {"disks": [{"name": "c", "size": 5, "root": None, "excluded": [[-1, 2, "negative"]]}]},
        {"disks": [{"name": "../c", "size": 5, "root": None}]},
        {"disks": [{"name": "c", "size": 5, "root": None}] * 2},
        {"disks": {}},
        {"disks": [7]},
        {"number": 2**60},
        {"number": 0},
        {"number": 17},
        {"previous": None},
        {"previous": {"name": "points/x", "digest": "0" * 64}},
        {"vm": "x"},
        {"version": 2},
        {"inventory": "inventory/" + "0" * 32},
        {"inventory": "../../etc/passwd"},
    ],
    ids=str,
)
def test_hostile_manifests_are_named_though_they_are_sealed(
    tmp_path: Path, read: Read, manifest: dict[str, object]
) -> None:
    repo, _ = three_points()
    point = repo.add_point(manifest=manifest)
    assert named(check(repo, tmp_path, read), point.manifest)


def test_what_is_not_a_repository_is_said_so(tmp_path: Path, read: Read) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        result = read(path, "list")
        assert (result.code, result.out) == (1, b"")
        assert result.problems == ("format: is missing",)


def test_the_newest_point_without_its_seal_is_at_least_noted(tmp_path: Path, read: Read) -> None:
    # Nothing in a repository tells this from a run that did not finish; a client's memory does (section 9).
    repo, points = three_points()
    del repo.objects[points[2].seal]
    result = check(repo, tmp_path, read)
    assert (result.code, result.problems) == (0, ())
    assert [note for note in result.notes if note.startswith(points[2].manifest)]


def test_a_point_of_one_vm_cannot_follow_a_point_of_another(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    previous = {"name": points[2].manifest, "digest": points[2].digest}
    point = repo.add_point(vm=("other", "other"), manifest={"number": 4, "previous": previous})
    assert "another VM" in named(check(repo, tmp_path, read), point.manifest)[0]


def test_two_points_with_one_number_are_named(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    previous = {"name": points[1].manifest, "digest": points[1].digest}
    twin = repo.add_point(manifest={"number": 3, "previous": previous})
    problem = f"{twin.manifest}: has the number 3, as {points[2].manifest} has"
    assert problem in check(repo, tmp_path, read).problems


def test_a_tombstone_buries_only_the_point_of_its_own_name(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    repo.forget(points[1], tombstone=False)
    name = repo.tombstone(points[0], point=points[1].manifest)
    result = check(repo, tmp_path, read)
    assert named(result, name)
    assert named(result, points[1].manifest)
    assert points[0].id.encode() in read(tmp_path / "r", "list").out


@pytest.mark.parametrize(
    ("bent", "why"),
    [
        ({"vm": "another"}, "another VM"),
        ({"vm": 7}, "vm"),
        ({"number": 0}, "number"),
        ({"digest": ""}, "digest"),
        ({"version": 2}, "version"),
        ({"previous": {"name": "points/x", "digest": "0" * 64}}, "another VM"),
        ({"previous": 7}, "previous"),
    ],
    ids=str,
)
def test_hostile_tombstones_are_named_and_bury_nothing(
    tmp_path: Path, read: Read, bent: dict[str, Any], why: str
) -> None:
    repo, points = three_points()
    name = repo.tombstone(points[1], **bent)
    assert why in named(check(repo, tmp_path, read), name)[0]
    assert points[1].id.encode() in read(tmp_path / "r", "list").out


def test_a_tombstone_of_another_number_or_digest_breaks_the_history(tmp_path: Path, read: Read) -> None:
    bends: list[dict[str, Any]] = [{"number": 7}, {"digest": "0" * 64}]
    for at, bent in enumerate(bends):
        repo, points = three_points()
        repo.forget(points[1])
        repo.tombstone(points[1], **bent)
        result = check(repo, tmp_path / str(at), read)
        assert named(result, points[2].manifest) == [
            f"{points[2].manifest}: follows another {points[1].manifest} than the one here"
        ]


def test_a_removed_newest_point_is_missed_when_its_run_promised_it(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    repo.journal(points[2])
    assert check(repo, tmp_path, read).code == 0
    repo.forget(points[2], tombstone=False)
    assert "says that it was sealed" in named(check(repo, tmp_path / "2", read), points[2].manifest)[0]


def test_a_removed_manifest_is_missed_without_a_password(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    del repo.objects[points[1].manifest]
    result = read(repo.write(tmp_path / "r"), "scrub", password="")
    assert named(result, points[1].manifest) == [f"{points[1].manifest}: is missing, its seal is there"]


def test_an_inventory_cannot_stand_in_for_another(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    repo.objects[points[0].inventory] = repo.objects[points[1].inventory]
    repo.write(tmp_path / "r")
    for result in (read(tmp_path / "r", "scrub", password=""), read(tmp_path / "r", "check")):
        assert "not this inventory" in named(result, points[0].inventory)[0]


def inventory_lines(repo: RepositoryBytes, name: str) -> str:
    """Give the text of an inventory without its last two lines."""
    return "".join(line + "\n" for line in repo.objects[name].decode().split("\n")[:-3])


BENT_LINES = [
    "+ packs/aa/" + "a" * 32 + " 100\n",
    "+ packs/aa/" + "b" * 32 + " 100 " + "0" * 64 + "\n",
    "+ packs/aa/" + "a" * 32 + " -1 " + "0" * 64 + "\n",
    "= packs/aa/" + "a" * 32 + " 100\n",
    "- ../../etc/passwd\n",
    "* packs/aa/" + "a" * 32 + "\n",
    "\n",
]


@pytest.mark.parametrize("line", BENT_LINES)
def test_an_inventory_with_a_line_of_unknown_form_is_refused(tmp_path: Path, read: Read, line: str) -> None:
    repo, points = three_points()
    name = points[0].inventory
    repo.objects[name] = repo.with_mac(inventory_lines(repo, name) + line)
    assert "line of unknown form" in named(check(repo, tmp_path, read), name)[0]


def test_every_line_of_an_inventory_ends(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    name = points[0].inventory
    assert repo.with_mac(inventory_lines(repo, name)) == repo.objects[name]
    repo.objects[name] = repo.objects[name][:-1]
    assert "line end" in named(check(repo, tmp_path, read), name)[0]


def test_a_pack_that_another_run_relied_on_is_missed_though_its_own_inventory_is_gone(
    tmp_path: Path, read: Read
) -> None:
    repo, points = three_points()
    relying = repo.add_point(disks=[DISK])
    del repo.objects[points[0].inventory], repo.objects[points[0].packs[0]]
    assert points[0].packs[0].encode() in repo.objects[relying.inventory]
    assert named(read(repo.write(tmp_path / "r"), "scrub", password=""), points[0].packs[0])


def test_more_keys_than_a_repository_may_have_are_named(tmp_path: Path, read: Read) -> None:
    repo, _ = three_points()
    for number in range(64):
        repo.objects[f"keys/{'f' * 30}{number:02x}"] = b"{}"
    assert "more than 64" in named(check(repo, tmp_path, read), "keys/")[0]


@pytest.mark.parametrize("value", [1.5, [], {"a": ["b"]}, "caf\u00e9", {"\u00e9": 1}], ids=ascii)
def test_a_hashed_object_holds_only_what_has_one_form(tmp_path: Path, read: Read, value: object) -> None:
    repo, _ = three_points()
    repo.objects["format"] = json.dumps({**repo.parameters, "more": value}).encode()
    assert "is hashed, but holds more" in named(check(repo, tmp_path, read), "format")[0]


def test_a_pack_of_4_gib_is_refused_before_it_is_read(tmp_path: Path, read: Read) -> None:
    repo, points = three_points()
    directory = repo.write(tmp_path / "r")
    with (directory / points[0].packs[0]).open("r+b") as file:
        file.truncate(1 << 32)
    assert "too short or long" in named(read(directory, "scrub", password=""), points[0].packs[0])[0]


def test_a_chunk_of_zeros_is_never_stored(tmp_path: Path, read: Read) -> None:
    repo, _ = three_points()
    name = repo.pack(PACK_OF_CHUNKS, [Frame(repo.chunk_id(bytes(65536)), bytes(65536))])
    assert "chunk of zeros" in named(check(repo, tmp_path, read), name)[0]


def test_names_in_the_store_cannot_break_a_line_or_steer_a_terminal(tmp_path: Path, read: Read) -> None:
    repo, _ = three_points()
    repo.objects["stray\nproblem: \x1b[2J\u202e"] = b""
    result = check(repo, tmp_path, read)
    assert result.notes == ("stray\\nproblem: \\x1b[2J\\u202e: is no object of a repository",)
