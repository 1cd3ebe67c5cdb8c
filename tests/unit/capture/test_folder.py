"""What counts as a disk, what as a file of the VM, and when the hold is broken."""

import mmap
import os
import time
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Final
from uuid import UUID

import pytest

from tests.generators.vhdx_bytes import FULL, MIB, Block, make_vhdx
from vmkeep.capture.errors import NothingToHold, SourceMissing, SourceRefused
from vmkeep.capture.folder import hold, safe_name, vm_id_of_export
from vmkeep.capture.source import SourceAddress
from vmkeep.formats.errors import CorruptDisk, FormatError, ParentMissing, SourceChanged, UnsupportedDisk

pytestmark = pytest.mark.quick

GUID = "5A1F0C3E-AB12-4C00-8000-0123456789AB"


def put(root: Path, *names: str, content: bytes = bytes(512)) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def folder(root: Path) -> SourceAddress:
    return SourceAddress("folder", root)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_disks_files_and_what_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "Virtual Hard Disks/b.raw", "Virtual Hard Disks/A.IMG", "c.raw")
    put(tmp_path, f"Virtual Machines/{GUID}.vmcx", f"Virtual Machines/{GUID}.VMRS", content=b"x")
    put(tmp_path, f"Virtual Machines/{GUID}/{GUID}.bin", f"Virtual Machines/{GUID}.xml", content=b"x")
    put(tmp_path, "readme.xml", "notes.bin", "disk.raw.vmkeep-partial", content=b"x")
    with hold(folder(tmp_path)) as held:
        assert [disk.name for disk in held.disks] == ["A", "b", "c"]
        assert {(file.name, file.role) for file in held.files} == {
            (f"Virtual Machines/{GUID}.vmcx", "configuration"),
            (f"Virtual Machines/{GUID}.xml", "configuration"),
            (f"Virtual Machines/{GUID}.VMRS", "runtime-state"),
            (f"Virtual Machines/{GUID}/{GUID}.bin", "memory"),
        }
        assert set(held.facts.left_out) == {"readme.xml", "notes.bin", "disk.raw.vmkeep-partial"}
        assert held.facts.has_memory
        assert held.check() == 7


def test_disks_of_one_name_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path, "one/d.raw", "two/d.raw", "d.img")
    with hold(folder(tmp_path)) as held:
        names = [disk.name for disk in held.disks]
    assert len(set(names)) == 3 and not any("/" in name for name in names)


def test_one_disk_has_no_other_files(tmp_path: Path) -> None:
    put(tmp_path, "d.raw", "other.raw", f"Virtual Machines/{GUID}.vmcx")
    with hold(SourceAddress("disk", tmp_path / "d.raw")) as held:
        assert ([d.name for d in held.disks], held.files) == (["d"], ())
        assert [(r.offset, r.length) for r in held.disks[0].extents(1, 9)] in ([], [(0, 512)])


def test_scattered_data_are_a_bounded_number_of_ranges_of_whole_units(tmp_path: Path) -> None:
    blocks = {number: Block(FULL, b"\1" * MIB) for number in range(0, 16, 2)}
    (tmp_path / "d.vhdx").write_bytes(bytes(make_vhdx(disk_size=16 * MIB, blocks=blocks).data))
    with hold(folder(tmp_path)) as held:
        (disk,) = held.disks
        exact = [(number * MIB, MIB) for number in blocks]
        assert disk.extents(64 << 10, 8) == exact
        assert disk.extents(64 << 10, 7) == [(0, 16 * MIB)]


def test_a_folder_of_chains_opens_each_file_once(tmp_path: Path) -> None:
    layers = write_chain(tmp_path, 60)
    branch = chain_layer(parent=30, number=90)
    (tmp_path / "90.avhdx").write_bytes(branch)
    before = open_descriptors()
    with hold(folder(tmp_path)) as held:
        assert open_descriptors() == before + layers + 1
        assert sorted(disk.file for disk in held.disks) == ["59.avhdx", "90.avhdx"]
        assert held.check() == layers + 1
        path = tmp_path / "30.avhdx"
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        with pytest.raises(SourceChanged, match=r"30\.avhdx"):
            held.check()
    assert open_descriptors() == before


def chain_layer(parent: int, number: int) -> bytes:
    name = f"{parent}.avhdx" if parent else "0.vhdx"
    locator = [("parent_linkage", str(UUID(int=100 + parent))), ("relative_path", f".\\{name}")]
    made = make_vhdx(disk_size=MIB, has_parent=True, locator=locator, write_guid=UUID(int=100 + number))
    return bytes(made.data)


def write_chain(root: Path, length: int) -> int:
    (root / "0.vhdx").write_bytes(bytes(make_vhdx(disk_size=MIB, write_guid=UUID(int=100)).data))
    for number in range(1, length):
        (root / f"{number}.avhdx").write_bytes(chain_layer(number - 1, number))
    return length


def test_two_copies_of_a_vm_are_two_disks_each_over_its_own_base(tmp_path: Path) -> None:
    for name, fill in (("a", b"\1"), ("b", b"\2")):
        copy = tmp_path / name
        copy.mkdir()
        blocks = {0: Block(FULL, fill * MIB)}
        made = make_vhdx(disk_size=MIB, blocks=blocks, write_guid=UUID(int=100))
        (copy / "0.vhdx").write_bytes(made.data)
        (copy / "1.avhdx").write_bytes(chain_layer(0, 1))
    with hold(folder(tmp_path)) as held:
        found = {disk.file: disk.disk.read_at(0, 1) for disk in held.disks}
        assert found == {"a/1.avhdx": b"\1", "b/1.avhdx": b"\2"}
        assert len({disk.name for disk in held.disks}) == 2
    (tmp_path / "a" / "1.avhdx").rename(tmp_path / "1.avhdx")
    before = open_descriptors()
    with pytest.raises(UnsupportedDisk, match="both say that they are the parent of") as caught:
        hold(folder(tmp_path))
    assert "a/0.vhdx" in caught.value.message and "b/0.vhdx" in caught.value.message
    assert caught.value.hint
    assert open_descriptors() == before


def test_a_copy_of_a_disk_beside_it_is_a_second_disk(tmp_path: Path) -> None:
    data = bytes(make_vhdx(disk_size=MIB, write_guid=UUID(int=100)).data)
    (tmp_path / "0.vhdx").write_bytes(data)
    (tmp_path / "0 - Copy.vhdx").write_bytes(data)
    (tmp_path / "1.avhdx").write_bytes(chain_layer(0, 1))
    with hold(folder(tmp_path)) as held:
        chains = [[Path(layer.name).name for layer in disk.disk.chain()] for disk in held.disks]
    assert sorted(chains) == [["0 - Copy.vhdx"], ["1.avhdx", "0.vhdx"]]


def test_a_parent_outside_the_folder_and_a_circle_are_refused_by_name(tmp_path: Path) -> None:
    vm = tmp_path / "vm"
    vm.mkdir()
    write_chain(tmp_path, 1)
    (vm / "1.avhdx").write_bytes(chain_layer(0, 1))
    before = open_descriptors()
    with pytest.raises(ParentMissing, match=r"1\.avhdx' needs its parent '0\.vhdx'"):
        hold(folder(vm))
    (vm / "1.avhdx").write_bytes(chain_layer(2, 1))
    (vm / "2.avhdx").write_bytes(chain_layer(1, 2))
    with pytest.raises(CorruptDisk, match=r"names '[12]\.avhdx' as its parent, which is its child already"):
        hold(folder(vm))
    assert open_descriptors() == before


def test_nothing_stays_open(tmp_path: Path) -> None:
    put(tmp_path, "a.raw", "b.raw", f"Virtual Machines/{GUID}.vmcx")
    before = open_descriptors()
    with hold(folder(tmp_path)) as held:
        assert open_descriptors() == before + 3
    assert open_descriptors() == before
    held.release()  # safe to repeat
    put(tmp_path, "c.vhdx", content=b"no disk at all")
    with pytest.raises(FormatError):
        hold(folder(tmp_path))
    assert open_descriptors() == before


@pytest.mark.parametrize("victim", ["a.raw", f"Virtual Machines/{GUID}.vmcx"])
@pytest.mark.parametrize("change", ["write", "grow", "cut", "replace", "remove"])
def test_whatever_moves_breaks_the_hold(tmp_path: Path, victim: str, change: str) -> None:
    put(tmp_path, "a.raw", "b.raw", f"Virtual Machines/{GUID}.vmcx", content=bytes(1024))
    path = tmp_path / victim
    with hold(folder(tmp_path)) as held:
        assert held.check() == 3
        match change:
            case "write":
                with path.open("r+b") as file:
                    file.write(b"\0")
                os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
            case "grow":
                os.truncate(path, 2048)
            case "cut":
                os.truncate(path, 512)
            case "replace":
                put(tmp_path.parent, "other", content=bytes(1024))
                os.replace(tmp_path.parent / "other", path)
            case "remove":
                path.unlink()
        with pytest.raises(FormatError) as caught:
            held.check()
    assert Path(victim).name in caught.value.message


def test_a_write_through_a_mapping_breaks_the_hold(tmp_path: Path) -> None:
    put(tmp_path, "a.raw", content=bytes(1 << 20))
    with open(tmp_path / "a.raw", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        if not notes_mapped_writes(tmp_path):
            pytest.skip("this file system keeps no time of writes through mappings")
        mapped[5] = 1  # the page is dirty: of itself the kernel would not note a second write to it
        with hold(folder(tmp_path)) as held:
            mapped[6] = 1
            with pytest.raises(SourceChanged):
                held.check()


def notes_mapped_writes(folder: Path) -> bool:
    """Tell whether writing a clean mapped page changes the file's time here (on tmpfs it does not)."""
    probe = folder / "probe"
    probe.write_bytes(bytes(4096))
    with open(probe, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        os.fsync(file.fileno())
        before = probe.stat().st_mtime_ns
        for _ in range(100):  # times may be as coarse as a timer tick
            mapped[0] = mapped[0] ^ 1
            os.fsync(file.fileno())
            if probe.stat().st_mtime_ns != before:
                break
            time.sleep(0.01)
        noted = probe.stat().st_mtime_ns != before
    probe.unlink()
    return noted


def test_a_file_that_gets_shorter_while_it_is_read(tmp_path: Path) -> None:
    put(tmp_path, "a.raw", f"Virtual Machines/{GUID}.vmcx", content=bytes(1024))
    with hold(folder(tmp_path)) as held:
        os.truncate(tmp_path / "Virtual Machines" / f"{GUID}.vmcx", 10)
        with pytest.raises(SourceChanged):
            held.files[0].read_into(0, memoryview(bytearray(1024)))


def test_links_are_not_followed_but_named(tmp_path: Path) -> None:
    vm = tmp_path / "vm"
    put(vm, "a.raw")
    put(tmp_path, "outside.raw")
    (vm / "loop").symlink_to(vm)
    (vm / "notes.txt").symlink_to(tmp_path / "outside.raw")
    os.mkfifo(vm / "pipe.raw")
    with hold(folder(vm)) as held:
        assert [disk.name for disk in held.disks] == ["a"]
        assert sorted(held.facts.left_out) == ["loop", "notes.txt"]
    (vm / "link.raw").symlink_to(tmp_path / "outside.raw")
    with pytest.raises(SourceRefused, match=r"link\.raw"):
        hold(folder(vm))


def test_special_files_are_named_not_read(tmp_path: Path) -> None:
    put(tmp_path, "a.raw")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.vhdx")
    (tmp_path / "Virtual Machines").mkdir()
    os.mkfifo(tmp_path / "Virtual Machines" / f"{GUID}.vmcx")
    with socket(AF_UNIX) as listening, hold(folder(tmp_path)) as before:
        assert len(before.facts.left_out) == 2
        listening.bind(str(tmp_path / "s"))
        with hold(folder(tmp_path)) as held:
            assert ([disk.name for disk in held.disks], held.files) == (["a"], ())
            left_out = f"Virtual Machines/{GUID}.vmcx (a pipe)", "pipe (a pipe)", "s (a socket)"
            assert held.facts.left_out == left_out
            assert [name for name, _ in held.facts.disguised] == ["pipe.vhdx"]


# Signatures: MS-VHDX 2.1, the VHD specification's footer, docs/interop/qcow2.txt of QEMU, and VMware's
# Virtual Disk Format 5.0.
DISGUISED: Final = {
    "disk": (b"vhdxfile" + bytes(2000), "VHDX"),
    "disk.vhdx.old": (b"vhdxfile" + bytes(2000), "VHDX"),
    "fixed": (bytes(4096) + b"conectix" + bytes(504), "VHD"),
    "dynamic.bak": (b"conectix" + bytes(2000), "VHD"),
    "image.qcow2": (b"QFI\xfb" + bytes(2000), "qcow"),
    "image": (b"QFI\xfb" + bytes(2000), "qcow"),
    "vm.vmdk": (b"KDMV" + bytes(2000), "VMDK"),
    "short": (b"KDMV", "VMDK"),
}
HARMLESS: Final = {
    "notes.txt": b"about vhdxfile and conectix" + bytes(600), "empty": b"", "x": b"x",
    # What Hyper-V and an interrupted restore leave beside disks is known by its name.
    "disk.vhdx.rct": b"vhdxfile", "disk.vhdx.vmkeep-partial": b"vhdxfile",
}  # fmt: skip


def test_disks_that_are_not_named_like_disks_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path, "a.raw")
    for name, content in (HARMLESS | {name: content for name, (content, _) in DISGUISED.items()}).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    before = open_descriptors()
    with hold(folder(tmp_path)) as held:
        looks = dict(held.facts.disguised)
        assert set(looks) == set(DISGUISED)
        assert all(title in looks[name] for name, (_, title) in DISGUISED.items()), looks
        assert set(held.facts.left_out) == {*HARMLESS, "link"}
    assert open_descriptors() == before
    (tmp_path / "a.raw").unlink()
    with pytest.raises(NothingToHold, match=r"holds no virtual disk by .* 'disk' is a VHDX disk"):
        hold(folder(tmp_path))


def test_what_is_not_there(tmp_path: Path) -> None:
    put(tmp_path, "readme.txt")
    with pytest.raises(NothingToHold):
        hold(folder(tmp_path))
    with pytest.raises(SourceMissing, match="is a file") as refused:
        hold(folder(tmp_path / "readme.txt"))
    assert "disk:" in refused.value.hint
    for address in (
        folder(tmp_path / "no"),
        SourceAddress("disk", tmp_path / "no"),
        SourceAddress("disk", tmp_path),
    ):
        with pytest.raises(SourceMissing):
            hold(address)


def test_an_export_tells_its_vm_s_id(tmp_path: Path) -> None:
    put(tmp_path, "d.raw")
    assert vm_id_of_export(folder(tmp_path)) is None
    put(
        tmp_path,
        f"x/Virtual Machines/{GUID}.vmcx",
        "x/Virtual Machines/notes.xml",
        f"Snapshots/{GUID[::-1]}.vmcx",
    )
    found = vm_id_of_export(folder(tmp_path))
    assert str(found) == GUID.lower()
    assert vm_id_of_export(SourceAddress("disk", tmp_path / "d.raw")) is None
    # Two machines in one folder: neither.
    put(tmp_path, "y/Virtual Machines/00000000-0000-0000-0000-000000000001.xml")
    assert vm_id_of_export(folder(tmp_path)) is None


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("web", "web"), ("a b/c", "a b/c"), ("100%", "100%25"), ("a\\b", "a%5Cb"), ("a\nb", "a%0Ab"),
        ("d\udcff", "d%FF"), ("..", "%2E%2E"), (".", "%2E"), ("...", "..."), ("\u202e", "\u202e"),
    ],
)  # fmt: skip
def test_names_a_manifest_may_hold(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_of_a_table_of_nonsense_only_the_first_errors_are_kept(tmp_path: Path) -> None:
    made = make_vhdx(disk_size=1500 * MIB)
    for block in range(1500):
        made.set_u64(made.entry_at(block), 4)  # a reserved state
    (tmp_path / "a.vhdx").write_bytes(bytes(made.data))
    with hold(folder(tmp_path)) as held:
        assert len(held.facts.damage) == 1000
        assert "Block 999 has the reserved state 4" in held.facts.damage[-1]
