"""`vmkeep disk info|check|convert|compare`, as a person and as a program use them."""

import contextlib
import io
import json
import random
import subprocess
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from tests.generators.vhd_bytes import DIFFERENCING, Block, Sparse, apply, fixed, full_block
from tests.generators.vhdx_bytes import make_vhdx
from vmkeep.cli import main
from vmkeep.cli.disk import disk_check, disk_compare, disk_convert, disk_info
from vmkeep.cli.text import visible
from vmkeep.errors import UsageError, VmkeepError
from vmkeep.formats.errors import (
    NotADisk,
    ParentMismatch,
    SourceUnreadable,
    TargetUnwritable,
    UnsupportedDisk,
)

pytestmark = pytest.mark.qemu

MIB = 1 << 20
ID = UUID("12345678-9abc-def0-1122-334455667788")
BASE_ID = UUID("00112233-4455-6677-8899-aabbccddeeff")


class Result(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


def invoke(*words: str | Path) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["disk", *(str(word) for word in words)])
    return Result(code, out.getvalue(), err.getvalue())


def document(*words: str | Path) -> Any:
    return json.loads(invoke(*words, "--json").stdout)


def dynamic() -> Sparse:
    return Sparse(8 * MIB + 512, 2 * MIB, {1: full_block(random.Random(5).randbytes(2 * MIB))}, ID)


@pytest.fixture
def vhd(tmp_path: Path) -> Path:
    path = tmp_path / "disk.vhd"
    path.write_bytes(dynamic().build())
    return path


def chain_in(folder: Path, base_size: int) -> Path:
    """Make a child of 8 MiB with one sector of its own, over a fixed disk; return the child."""
    folder.mkdir()
    child = Sparse(
        8 * MIB, 2 * MIB, {3: Block([True] + [False] * 4095, b"\7" * 2 * MIB)}, ID, DIFFERENCING, BASE_ID,
        parent_name="C:\\VMs\\base.vhd",
    )  # fmt: skip
    (folder / "base.vhd").write_bytes(fixed(b"\3" * base_size, BASE_ID))
    (folder / "child.avhd").write_bytes(child.build())
    assert child.places[3] == 2048
    return folder / "child.avhd"


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return chain_in(tmp_path / "vm", 8 * MIB)


def test_info_says_what_the_disk_is(vhd: Path) -> None:
    assert document("info", vhd) == {
        "file": str(vhd),
        "format": "vhd",
        "kind": "dynamic",
        "size": 8 * MIB + 512,
        "logical_sector": 512,
        "physical_sector": 512,
        "block_size": 2 * MIB,
        "disk_id": str(ID),
        "parent": None,
        "chain": [str(vhd)],
        "wanted": None,
        "missing": None,
        "allocated": 2 * MIB,
        "file_size": vhd.stat().st_size,
    }
    shown = invoke("info", vhd).stdout
    assert "vhd, dynamic" in shown and str(8 * MIB + 512) in shown and str(ID) in shown


def test_info_of_a_chain_names_the_parents_and_counts_only_the_child(chain: Path) -> None:
    info = disk_info(chain)
    assert info["kind"] == "differencing"
    assert info["parent"] == str(chain.parent / "base.vhd")
    assert info["chain"] == [str(chain), str(chain.parent / "base.vhd")]
    assert info["allocated"] == 512


def test_several_files_give_one_list(vhd: Path, chain: Path) -> None:
    assert [entry["file"] for entry in document("info", vhd, chain)] == [str(vhd), str(chain)]


def test_check_of_a_good_disk(vhd: Path) -> None:
    result = invoke("check", vhd)
    assert result.exit_code == 0
    assert "ok, 0 errors" in result.stdout


def test_check_of_a_damaged_disk_ends_with_14_and_says_where(vhd: Path) -> None:
    data = bytearray(vhd.read_bytes())
    data[1536:1540] = data[1540:1544]  # two blocks in one place
    vhd.write_bytes(data)
    result = invoke("check", vhd)
    assert result.exit_code == 14
    assert "overlap" in result.stdout and "damaged, 1 errors" in result.stdout
    report = document("check", vhd)
    assert not report["ok"] and report["errors"] == 1
    assert report["findings"][0]["offset"] == int.from_bytes(data[1540:1544], "big") * 512


def test_check_of_a_disk_that_cannot_be_opened_ends_with_14_too(vhd: Path) -> None:
    data = bytearray(vhd.read_bytes())
    data[600] ^= 1  # the dynamic header, of which there is one
    vhd.write_bytes(data)
    assert invoke("check", vhd).exit_code == 14
    assert document("check", vhd)["findings"][0]["offset"] == 512


def test_check_of_a_disk_whose_identifier_is_damaged_ends_with_14_too(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    data = bytearray(make_vhdx(disk_size=2 * MIB).data)
    data[3] ^= 1
    path.write_bytes(data)
    assert invoke("check", path).exit_code == 14
    assert [(f["offset"], f["rule"]) for f in document("check", path)["findings"]] == [(0, "[MS-VHDX] 2.2.1")]


def test_check_examines_the_parents(chain: Path) -> None:
    assert disk_check(chain)["layers"] == [str(chain), str(chain.parent / "base.vhd")]
    (chain.parent / "base.vhd").write_bytes(fixed(b"\3" * 8 * MIB, BASE_ID, saved_state=1))
    findings = disk_check(chain)["findings"]
    assert [finding["file"] for finding in findings] == [str(chain.parent / "base.vhd")]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("none.vhd", None, SourceUnreadable),
        ("text.vhd", b"hello", NotADisk),
        ("x.vhdx.rct", b"hello", NotADisk),
        ("disk.qcow2", b"QFI\xfb".ljust(512), UnsupportedDisk),
    ],
)
def test_what_is_no_disk_is_an_error_and_no_finding(
    tmp_path: Path, name: str, content: bytes | None, error: type[VmkeepError]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for command in (disk_info, disk_check):
        with pytest.raises(error) as caught:
            command(path)
        assert caught.value.exit_code == 1


def test_a_file_that_cannot_be_read_does_not_hide_the_others(vhd: Path) -> None:
    result = invoke("check", vhd.parent / "none.vhd", vhd)
    assert result.exit_code == 1
    assert "none.vhd" in result.stderr
    assert f"{vhd}: ok" in result.stdout


def test_info_of_a_child_without_its_parent_shows_what_the_file_says(chain: Path) -> None:
    (chain.parent / "base.vhd").rename(chain.parent / "other.vhd")
    shown = invoke("info", chain)
    assert shown.exit_code == 1
    for part in ("vhd, differencing", str(8 * MIB), str(ID), str(BASE_ID), "parent name: C:\\VMs\\base.vhd"):
        assert part in shown.stdout
    assert "needs its parent 'base.vhd'" in shown.stderr and "same folder" in shown.stderr
    told = invoke("info", chain, "--json")
    assert told.exit_code == 1
    info = json.loads(told.stdout)
    assert (info["kind"], info["size"], info["disk_id"]) == ("differencing", 8 * MIB, str(ID))
    assert (info["parent"], info["chain"], info["allocated"]) == (None, [str(chain)], 512)
    assert info["wanted"] == {
        "identities": [str(BASE_ID)],
        "locators": {"parent name": "C:\\VMs\\base.vhd"},
    }
    assert "base.vhd" in info["missing"]
    error = json.loads(told.stderr)
    assert (error["message_type"], error["code"], error["error"]) == ("exit_error", 1, "FM005")


def test_info_of_a_vhdx_child_without_its_parent_names_each_locator(tmp_path: Path) -> None:
    path = tmp_path / "top.avhdx"
    pairs = [
        ("parent_linkage", f"{{{BASE_ID}}}"),
        ("relative_path", ".\\base.vhdx"),
        ("absolute_win32_path", "\\\\?\\C:\\VMs\\base.vhdx"),
    ]
    path.write_bytes(make_vhdx(disk_size=2 * MIB, has_parent=True, locator=pairs, disk_id=ID).data)
    told = invoke("info", path, "--json")
    assert told.exit_code == 1
    wanted = json.loads(told.stdout)["wanted"]
    assert wanted == {"identities": [str(BASE_ID)], "locators": dict(pairs)}
    shown = invoke("info", path).stdout
    assert "relative_path: .\\base.vhdx" in shown and str(BASE_ID) in shown and "vhdx, differencing" in shown


def test_check_of_a_child_without_its_parent_examines_the_file_itself(chain: Path, vhd: Path) -> None:
    (chain.parent / "base.vhd").unlink()
    result = invoke("check", chain, vhd)
    assert result.exit_code == 1
    assert "child.avhd: not complete, 0 errors" in result.stdout and f"{vhd}: ok" in result.stdout
    assert "needs its parent 'base.vhd'" in result.stderr
    data = bytearray(chain.read_bytes())
    data[1536 + 12 : 1536 + 16] = (2).to_bytes(4, "big")  # the block lies on the header and the table
    chain.write_bytes(data)
    result = invoke("check", chain)
    assert result.exit_code == 14
    assert "child.avhd: damaged, 1 errors" in result.stdout
    assert "needs its parent 'base.vhd'" in result.stderr
    report = disk_check(chain)
    assert not report["ok"] and report["layers"] == [str(chain)] and "base.vhd" in report["missing"]


def test_a_chain_over_another_disk_is_damaged(chain: Path) -> None:
    (chain.parent / "base.vhd").write_bytes(fixed(b"\3" * 8 * MIB, ID))
    with pytest.raises(ParentMismatch):
        disk_info(chain)
    assert not disk_check(chain)["ok"]


@pytest.mark.parametrize(("name", "qemu"), [("copy.raw", "raw"), ("copy.vhd", "vpc"), ("copy.vhdx", "vhdx")])
def test_convert_keeps_every_byte_and_the_size(vhd: Path, name: str, qemu: str) -> None:
    target = vhd.parent / name
    report = document("convert", vhd, target, "--format", target.suffix[1:])
    assert (report["size"], report["bytes_copied"]) == (8 * MIB + 512, 2 * MIB)
    expected = vhd.parent / "expected.raw"
    expected.write_bytes(apply(b"", dynamic()))
    done = subprocess.run(
        ["qemu-img", "compare", "-f", qemu, "-F", "raw", str(target), str(expected)],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done
    info = disk_info(target)
    assert info["size"] == 8 * MIB + 512
    assert info["disk_id"] == (None if qemu == "raw" else str(ID))
    assert report["lost"] == (["disk_id"] if qemu == "raw" else [])


def test_convert_flattens_a_chain_and_keeps_it_equal(chain: Path) -> None:
    for name in ("flat.vhd", "flat.vhdx", "flat.raw"):
        disk_convert(chain, chain.parent / name, None)
        assert disk_info(chain.parent / name)["parent"] is None
        assert disk_compare(chain, chain.parent / name)["equal"]
    assert (chain.parent / "flat.raw").read_bytes() == b"\3" * 6 * MIB + b"\7" * 512 + b"\3" * (2 * MIB - 512)


def test_a_fixed_disk_stays_fixed_and_a_raw_one_becomes_dynamic(chain: Path) -> None:
    disk_convert(chain.parent / "base.vhd", chain.parent / "a.vhdx", None)
    assert disk_info(chain.parent / "a.vhdx")["kind"] == "fixed"
    disk_convert(chain.parent / "a.vhdx", chain.parent / "b.raw", None)
    disk_convert(chain.parent / "b.raw", chain.parent / "c.vhd", "vhd")
    assert disk_info(chain.parent / "c.vhd")["kind"] == "dynamic"


def test_convert_refuses_an_existing_target_and_leaves_it(vhd: Path) -> None:
    target = vhd.parent / "copy.raw"
    target.write_bytes(b"mine")
    with pytest.raises(TargetUnwritable):
        disk_convert(vhd, target, None)
    with pytest.raises(TargetUnwritable):
        disk_convert(vhd, vhd, None)
    assert target.read_bytes() == b"mine"


def test_convert_refuses_a_name_that_contradicts_the_format(vhd: Path) -> None:
    with pytest.raises(UsageError, match="named like vhdx"):
        disk_convert(vhd, vhd.parent / "copy.vhdx", "raw")
    with pytest.raises(UsageError, match="tells no format"):
        disk_convert(vhd, vhd.parent / "copy", None)
    assert invoke("convert", vhd, vhd.parent / "copy", "--format", "vmdk").exit_code == 2
    assert [path.name for path in vhd.parent.iterdir()] == ["disk.vhd"]


def test_convert_leaves_nothing_behind_when_a_block_cannot_be_read(vhd: Path) -> None:
    data = bytearray(vhd.read_bytes())
    data[1536 + 8 : 1536 + 12] = (1 << 24).to_bytes(4, "big")
    vhd.write_bytes(data)
    with pytest.raises(VmkeepError, match="past the end"):
        disk_convert(vhd, vhd.parent / "copy.raw", None)
    assert [path.name for path in vhd.parent.iterdir()] == ["disk.vhd"]


def test_compare_ends_with_0_or_1_and_prints_the_ranges(vhd: Path) -> None:
    raw = vhd.parent / "copy.raw"
    disk_convert(vhd, raw, None)
    equal = invoke("compare", vhd, raw)
    assert (equal.exit_code, equal.stdout) == (0, "The disks are equal.\n")
    with raw.open("r+b") as file:
        file.seek(5 * MIB + 700)
        file.write(b"\1")
        file.truncate(9 * MIB)
    differ = invoke("compare", vhd, raw)
    assert differ.exit_code == 1
    assert f"512 bytes at {5 * MIB + 512} differ" in differ.stdout
    assert f"{MIB - 512} bytes at {8 * MIB + 512} exist in one disk only" in differ.stdout
    report = document("compare", vhd, raw)
    assert not report["equal"] and report["ranges"] == 2 and report["bytes_differing"] == MIB
    assert report["differences"][0] == {"kind": "content", "offset": 5 * MIB + 512, "length": 512}


def test_names_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m\u202e\r\nb.raw"
    path.write_bytes(bytes(512))
    shown = invoke("info", path).stdout
    assert "\x1b" not in shown and "\u202e" not in shown and "\r" not in shown
    assert "a\\x1b[31m\\u202e\\r\\nb.raw" in shown
    assert visible("na\u00efve \u65e5\u672c") == "na\u00efve \u65e5\u672c"
