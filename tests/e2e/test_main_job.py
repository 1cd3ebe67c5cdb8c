"""What goes in comes out identical: real disks, every format, folders and single files."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import CANARY, Vmkeep
from tests.e2e.disks import (
    MIB,
    Properties,
    SourceDisks,
    assert_identical,
    run,
    sha256,
    vhd_properties,
    vhdx_properties,
)
from tests.generators.vhdx_bytes import FULL, Block, make_vhdx

pytestmark = pytest.mark.qemu

_DRIVER = {"vhdx": "vhdx", "vhd": "vpc", "raw": "raw"}


def properties(path: Path) -> Properties:
    return vhdx_properties(path) if path.suffix == ".vhdx" else vhd_properties(path)


def told(info: Any) -> tuple[object, ...]:
    names = ("format", "kind", "size", "logical_sector", "physical_sector", "block_size", "disk_id")
    return tuple(info[name] for name in names)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Vmkeep:
    """A repository made by the product with its real key; the point ``latest`` holds all source disks."""
    folder = tmp_path_factory.mktemp("main-job")
    program = Vmkeep(folder, folder / "repo")
    program.ok("repo", "init", folder / "repo", "--recovery-key-file", folder / "recovery.txt")
    return program


@pytest.fixture(scope="module")
def taken(program: Vmkeep, source_disks: SourceDisks) -> Any:
    return program.backup(f"folder:{source_disks.folder}", "--as", "everything")


def test_a_folder_of_all_formats_comes_back_as_it_was(
    program: Vmkeep, taken: Any, source_disks: SourceDisks, tmp_path: Path
) -> None:
    program.ok("restore", taken["id"], "--to", tmp_path / "back")
    names = {"plain.img": "plain.raw"}  # restored files are named after the disk and the format
    restored = {name: tmp_path / "back" / names.get(name, name) for name in source_disks.drivers}
    assert sorted((tmp_path / "back").iterdir()) == sorted(restored.values())
    for name, back in restored.items():
        driver = source_disks.drivers[name]
        assert_identical(source_disks.folder / name, driver, back, driver)
        assert_identical(source_disks.truth[name], "raw", back, driver)
        if driver != "raw":
            assert properties(back) == properties(source_disks.folder / name)
        if driver == "vhdx":  # qemu-img check knows no "vpc"
            run("qemu-img", "check", "-f", driver, back)
    before = program.ok("disk", "info", *(source_disks.folder / name for name in restored), "--json").json
    after = program.ok("disk", "info", *restored.values(), "--json").json
    assert [told(info) for info in after] == [told(info) for info in before]
    verdicts = program.ok("disk", "check", *restored.values(), "--json").json
    assert [(v["errors"], v["warnings"]) for v in verdicts] == [(0, 0)] * len(restored)


@pytest.mark.parametrize("format", ["vhdx", "vhd", "raw"])
def test_every_disk_comes_back_in_each_format(
    program: Vmkeep, taken: Any, source_disks: SourceDisks, tmp_path: Path, format: str
) -> None:
    listed = program.ok("restore", taken["id"], "--to", tmp_path / "back", "--format", format, "--json").json
    assert len(listed["files"]) == len(source_disks.drivers)
    for name in source_disks.drivers:
        back = tmp_path / "back" / f"{Path(name).stem}.{format}"
        assert_identical(source_disks.truth[name], "raw", back, _DRIVER[format])
        if format == "vhd" or (format == "vhdx" and name != "plain.img"):
            source = source_disks.folder / name
            if source.suffix in (".vhd", ".vhdx"):
                assert properties(back).disk_id == properties(source).disk_id


def test_a_disk_goes_to_standard_output_byte_by_byte(
    program: Vmkeep, taken: Any, source_disks: SourceDisks
) -> None:
    for number, disk in enumerate(program.points()[0]["disks"]):
        name = next(n for n in source_disks.drivers if Path(n).stem == disk["name"])
        truth = source_disks.truth[name].read_bytes()
        assert disk["size"] == len(truth)
        wanted = str(number) if number % 2 else disk["name"]
        assert program.restore_raw(taken["id"], "--disk", wanted) == truth


@pytest.mark.parametrize("name", ["system.vhdx", "data fixed.vhdx", "old.vhd", "old-fixed.vhd", "plain.img"])
def test_a_single_disk_comes_back_into_a_named_file(
    vmkeep: Vmkeep, source_disks: SourceDisks, tmp_path: Path, name: str
) -> None:
    source = source_disks.folder / name
    summary = vmkeep.backup(f"disk:{source}")
    assert summary["vm"] == source.stem
    back = tmp_path / f"again{'.raw' if name == 'plain.img' else source.suffix}"
    vmkeep.ok("restore", "latest", "--to", back)
    driver = source_disks.drivers[name]
    assert_identical(source, driver, back, driver)
    if driver != "raw":
        assert properties(back) == properties(source)
    assert back.stat().st_mode & 0o777 == 0o600


def test_sectors_of_4096_bytes_and_odd_block_sizes_are_kept(vmkeep: Vmkeep, tmp_path: Path) -> None:
    # qemu-img makes no such disk; this one is written byte by byte from [MS-VHDX].
    size, block = 9 * MIB, 4 * MIB
    content = {0: b"first" * 1000, 2: b"last" * 1000}
    made = make_vhdx(
        disk_size=size,
        block_size=block,
        sector=4096,
        physical=4096,
        blocks={n: Block(FULL, data.ljust(block, b"\0")) for n, data in content.items()},
    )
    source = tmp_path / "native.vhdx"
    source.write_bytes(made.data)
    truth = bytearray(3 * block)
    for n, data in content.items():
        truth[n * block : n * block + len(data)] = data
    vmkeep.backup(f"disk:{source}")
    assert vmkeep.restore_raw("native") == bytes(truth[:size])
    vmkeep.ok("restore", "native", "--to", tmp_path / "back")
    assert vhdx_properties(tmp_path / "back" / "native.vhdx") == vhdx_properties(source)
    assert vhdx_properties(source).logical_sector == 4096
    # VHD knows sectors of 512 bytes only: said, not silently changed.
    refused = vmkeep.fails(1, "restore", "native", "--to", tmp_path / "other", "--format", "vhd", says="4096")
    assert refused.out == b""
    assert not list((tmp_path / "other").glob("*"))


def test_a_checksum_of_all_files_proves_that_sources_are_only_read(
    vmkeep: Vmkeep, source_disks: SourceDisks
) -> None:
    files = sorted(source_disks.folder.iterdir())
    before = [(sha256(file), file.stat().st_mtime_ns) for file in files]
    vmkeep.backup(f"folder:{source_disks.folder}")
    assert [(sha256(file), file.stat().st_mtime_ns) for file in files] == before


def test_an_empty_disk_and_a_full_one_are_restored(vmkeep: Vmkeep, tmp_path: Path, seed: int) -> None:
    import random

    source = tmp_path / "vm"
    source.mkdir()
    run("qemu-img", "create", "-q", "-f", "vhdx", source / "empty.vhdx", "40M")
    noise = random.Random(seed).randbytes(5 * MIB)
    (source / "full.raw").write_bytes(noise)
    summary = vmkeep.backup(f"folder:{source}")
    assert summary["bytes_read"] == 5 * MIB
    assert vmkeep.restore_raw("latest", "--disk", "empty") == bytes(40 * MIB)
    assert vmkeep.restore_raw("latest", "--disk", "full") == noise
    vmkeep.ok("restore", "latest", "--to", tmp_path / "back")
    assert_identical(source / "empty.vhdx", "vhdx", tmp_path / "back" / "empty.vhdx", "vhdx")


GUID = "5A1F0C3E-AB12-4C00-8000-0123456789AB"


@pytest.fixture
def exported_vm(tmp_path: Path, source_disks: SourceDisks) -> Path:
    """The folders Hyper-V's export makes, with state files of the VM."""
    export = tmp_path / "export" / "web server"
    for folder in ("Virtual Machines", "Virtual Hard Disks", "Snapshots"):
        (export / folder).mkdir(parents=True)
    shutil.copy(source_disks.folder / "system.vhdx", export / "Virtual Hard Disks")
    shutil.copy(source_disks.folder / "old.vhd", export / "Virtual Hard Disks")
    machines = export / "Virtual Machines"
    (machines / f"{GUID}.vmcx").write_bytes(b"\x1d\x2e configuration \x00" * 3000)
    (machines / f"{GUID}.vmrs").write_bytes(bytes(70_001))
    (machines / f"{GUID}.VMGS").write_bytes(b"GUESTRTS" + bytes(4 * MIB))
    (export / "Snapshots" / f"{GUID[::-1]}.vmcx").write_bytes(b"")
    (export / "readme.txt").write_text("not part of the VM")
    return export


def test_an_exported_vm_comes_back_with_its_configuration(
    vmkeep: Vmkeep, exported_vm: Path, tmp_path: Path
) -> None:
    summary = vmkeep.backup(f"folder:{exported_vm}")
    assert (summary["vm"], summary["vm_id"]) == ("web server", GUID.lower())
    assert any("readme.txt" in reason["fact"] for reason in summary["reasons"])
    vmkeep.ok("restore", "web server", "--to", tmp_path / "back")
    kept = [
        p for p in exported_vm.rglob("*") if p.is_file() and p.suffix.lower() in (".vmcx", ".vmrs", ".vmgs")
    ]
    assert len(kept) == 4
    for file in kept:
        back = tmp_path / "back" / file.relative_to(exported_vm)
        assert back.read_bytes() == file.read_bytes()
        assert back.stat().st_mode & 0o777 == 0o600
    for name, driver in (("system.vhdx", "vhdx"), ("old.vhd", "vpc")):
        assert_identical(exported_vm / "Virtual Hard Disks" / name, driver, tmp_path / "back" / name, driver)
    restored = {p for p in (tmp_path / "back").rglob("*") if p.is_file()}
    assert len(restored) == len(kept) + 2


def test_an_export_that_moved_is_still_the_same_vm(vmkeep: Vmkeep, exported_vm: Path) -> None:
    first = vmkeep.backup(f"folder:{exported_vm}")
    moved = exported_vm.with_name("moved")
    exported_vm.rename(moved)
    second = vmkeep.backup(f"folder:{moved}")
    assert (second["vm_id"], second["parent"]) == (first["vm_id"], first["id"])
    assert second["bytes_stored"] == 0


def test_the_recovery_key_opens_what_the_password_wrote(
    program: Vmkeep, taken: Any, source_disks: SourceDisks
) -> None:
    key_file = program.folder / "recovery.txt"
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert CANARY not in key_file.read_text()
    env = {"VMKEEP_PASSWORD": None}
    out = program.ok(
        "restore", taken["id"], "--disk", "system", "--to", "-", "--password-file", key_file, env=env
    )
    assert out.out == source_disks.truth["system.vhdx"].read_bytes()


def test_a_full_check_finds_nothing(program: Vmkeep, taken: Any) -> None:
    program.check_all()
    keyless = program.ok(
        "repo", "check", program.repo, "--keyless", "--json", env={"VMKEEP_PASSWORD": None}
    ).json
    assert (keyless["ok"], keyless["problems"]) == (True, [])
