"""Names from a VM or from a manifest are text, and nothing else: on terminals, in JSON, as files."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.command import CANARY, Result, Vmkeep
from tests.generators.repository_bytes import Content, RepositoryBytes

HOSTILE: Final = "a\r\nb<script>[red]\x1b[31m\u202egnp.\u2066../..\\c"
DATA: Final = b"data" * 4096


def unsteered(result: Result) -> None:
    """See that nothing printed can move a cursor, change a colour or turn the direction of reading."""
    for text in (result.text, result.err):
        assert not set(text) & set("\r\x1b\u202e\u2066\u2028\x07\x9b"), repr(text)


# -- names of files and folders, as they come from a host --


NAMES: Final = [
    "web\nserver", "[red]x", "\x1b]0;title\x07", "gnp\u202e.exe", "<script>alert(1)", "CON", "aux.backup",
    "a:b", "a\\b\\c", "..", "-rf", "~root", "trailing.", " ", "%2e%2e%2f", "x" * 200,
]  # fmt: skip


def test_disks_with_any_names_come_back_inside_the_folder(vmkeep: Vmkeep, tmp_path: Path) -> None:
    source = tmp_path / "vm"
    source.mkdir()
    for number, name in enumerate(NAMES):
        (source / f"{name}.raw").write_bytes(bytes([number]) * 512)
    unsteered(vmkeep.tells("backup", f"folder:{source}", "-v"))
    listed = vmkeep.ok("show", "latest")
    unsteered(listed)
    target = tmp_path / "deep" / "er" / "back"
    written = vmkeep.ok("restore", "latest", "--to", target)
    unsteered(written)
    files = [p for p in (tmp_path / "deep").rglob("*") if p.is_file()]
    assert {p.parent for p in files} == {target}
    assert sorted(p.read_bytes()[0] for p in files) == list(range(len(NAMES)))
    for file in files:
        assert not set(file.name) & set('\r\n\x1b\u202e<>:"/\\|?*')
        assert file.name.split(".")[0].lower() not in ("con", "aux")
        assert not file.name.startswith(("-", "~"))
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_name_that_is_no_unicode_is_kept_distinct(vmkeep: Vmkeep, tmp_path: Path) -> None:
    source = tmp_path / "vm"
    source.mkdir()
    for number, raw in enumerate((b"d\xff.raw", b"d\xfe.raw")):
        Path(os.fsdecode(bytes(source) + b"/" + raw)).write_bytes(bytes([number]) * 512)
    vmkeep.backup(f"folder:{source}")
    names = [disk["name"] for disk in vmkeep.points()[0]["disks"]]
    assert len(set(names)) == 2 and all(name.isascii() for name in names)
    vmkeep.ok("restore", "latest", "--to", tmp_path / "back")
    contents = {p.read_bytes()[:1] for p in (tmp_path / "back").iterdir()}
    assert contents == {b"\0", b"\1"}
    # Also as the source itself, in a message, and in JSON.
    odd = Path(os.fsdecode(bytes(source) + b"/d\xff.raw"))
    assert vmkeep.ok("backup", f"disk:{odd}", "--json").json["vm"]
    odd.unlink()
    vmkeep.fails(1, "backup", f"disk:{odd}", says="does not exist")


def test_a_vm_with_a_hostile_name_is_only_text(tmp_path: Path) -> None:
    vmkeep = forged(tmp_path)
    for arguments in (("points",), ("show", HOSTILE), ("show", "latest"), ("points", HOSTILE)):
        unsteered(vmkeep.ok(*arguments))
    raw = vmkeep.ok("points", "--json")
    assert raw.json[0]["vm"] == HOSTILE  # JSON keeps what is there, escaped
    assert raw.out.isascii() and b"\x1b" not in raw.out
    unsteered(vmkeep.fails(1, "show", HOSTILE + "?"))
    unsteered(vmkeep("restore", HOSTILE, "--to", tmp_path / "\x1b[31m"))
    assert (tmp_path / "\x1b[31m" / "disk.vhdx").is_file()
    unsteered(vmkeep.fails(1, "backup", "disk:" + HOSTILE))
    unsteered(vmkeep.fails(2, "back\x1b[31mup"))
    unsteered(vmkeep.fails(2, "backup", "disk:d.raw", "--as", HOSTILE))
    # A name that only turns the direction of reading is nobody's mistake, and text all the same.
    (tmp_path / "d.raw").write_bytes(DATA)
    unsteered(vmkeep.tells("backup", "disk:d.raw", "--as", "gnp.\u202e\u2066[red]", "-v"))


def test_a_name_with_an_at_sign_and_one_like_a_form_of_point(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(DATA)
    for name in ("mail@example", "latest", "@", "deadbeef"):
        taken = vmkeep.backup("disk:d.raw", "--as", name)
        assert vmkeep.ok("show", f"{name}@latest", "--json").json["id"] == taken["id"], name
        assert vmkeep.points(name)[0]["id"] == taken["id"]


# -- names in a manifest, as an enemy with the key would write them --


def forged(tmp_path: Path, **manifest: Any) -> Vmkeep:
    """A repository written byte by byte whose one point says what no vmkeep would say."""
    repository = RepositoryBytes(seed=5, passwords=[CANARY])
    disk, file = Content("disk", 1 << 16, {0: DATA}), Content("Virtual Machines/vm.vmcx", 64, {0: b"config"})
    repository.add_point(vm=("id", HOSTILE), disks=[disk], files=[file], manifest=manifest or None)
    return Vmkeep(tmp_path, repository.write(tmp_path / "repo"))


def entry(name: str, **changes: object) -> Mapping[str, object]:
    fields = {
        "name": name, "size": 4096, "root": None, "role": "configuration", "format": "raw", "kind": "fixed",
        "logical_sector": 512, "physical_sector": 512, "block_size": None, "disk_id": None,
        "source": HOSTILE, "excluded": [],
    }  # fmt: skip
    return {**fields, **changes}


# All of them, and more, are tried in tests/unit/restore; here the way through the command line counts.
ESCAPES: Final = ["../outside", "/outside", "..", "a/../../outside", "C:\\outside", "..\\outside", "con.txt"]


@pytest.mark.parametrize("kind", ["disks", "files"])
def test_no_name_in_a_manifest_leads_out_of_the_target(tmp_path: Path, kind: str) -> None:
    for number, name in enumerate(ESCAPES):
        place = tmp_path / str(number)
        place.mkdir()
        vmkeep = forged(place, **{kind: [entry(name)]})
        target = place / "deep" / "er" / "back"
        before = {p for p in place.rglob("*") if vmkeep.repo not in p.parents}
        result = vmkeep("restore", "latest", "--to", target)
        assert result.code in (0, 1, 14), (name, result)
        unsteered(result)
        now = {p for p in place.rglob("*") if vmkeep.repo not in p.parents and vmkeep.state not in p.parents}
        new = {p for p in now - before if p.is_file()}
        assert all(target in p.parents for p in new), (name, new)
        assert all(p.name.split(".")[0].lower() not in ("con", "lpt1") for p in new), name
        assert result.code == 0 or not new, (name, result)


def test_two_names_that_become_one_file_do_not_overwrite_each_other(tmp_path: Path) -> None:
    names = ["A", "a", "a%3A", "a:", "CON", "_CON"]
    vmkeep = forged(tmp_path, disks=[entry(name, size=512 * (n + 1)) for n, name in enumerate(names)])
    result = vmkeep("restore", "latest", "--to", tmp_path / "back")
    sizes = sorted(p.stat().st_size for p in (tmp_path / "back").iterdir() if p.is_file())
    assert result.code == 0, result
    assert sizes == [512 * (n + 1) for n in range(len(names))]


def test_a_hostile_manifest_is_shown_as_text(tmp_path: Path) -> None:
    reasons = [{"code": HOSTILE, "fact": HOSTILE, "effect": HOSTILE, "fix": HOSTILE}]
    vmkeep = forged(
        tmp_path,
        disks=[entry("disk", format=HOSTILE, kind=HOSTILE)],
        files=[entry("x.vmcx", role=HOSTILE)],
        source=HOSTILE,
        method=HOSTILE,
        program=HOSTILE,
        consistency={"asked": HOSTILE, "promised": "crash", "got": "crash", "reasons": reasons},
        parent=HOSTILE,
    )
    shown = vmkeep.ok("show", "latest")
    unsteered(shown)
    assert "<script>" in shown.text  # text for a terminal: no HTML is made of it
    unsteered(vmkeep.ok("points"))
    assert vmkeep.ok("show", "latest", "--json").json["source"] == HOSTILE
    written = vmkeep("restore", "latest", "--to", tmp_path / "back")
    unsteered(written)
    assert written.code in (0, 1, 14)


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 1 << 62}, {"logical_sector": 3}, {"block_size": 7 << 20}, {"root": "00" * 32}, {"size": 513},
    ],
)  # fmt: skip
def test_numbers_no_vmkeep_wrote_end_in_a_sentence(tmp_path: Path, fields: Mapping[str, object]) -> None:
    vmkeep = forged(tmp_path, disks=[{**entry("disk", format="vhdx", kind="dynamic"), **fields}])
    result = vmkeep("restore", "latest", "--to", tmp_path / "back")
    assert result.code in (0, 1, 14), result
    assert "unexpected" not in result.err, result.err
    assert result.code == 0 or not [p for p in (tmp_path / "back").rglob("*") if p.is_file()]


# -- links where the restore is to write --


def test_links_in_the_target_are_not_followed(tmp_path: Path) -> None:
    vmkeep = forged(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "back"
    for plant in ("disk.vhdx", "Virtual Machines"):
        target.mkdir()
        (target / plant).symlink_to(outside / "made" if "." in plant else outside)
        refused = vmkeep.fails(1, "restore", "latest", "--to", target)
        assert plant in refused.err
        assert list(outside.iterdir()) == []
        shutil.rmtree(target)
    # A dangling link in a file's own place.
    (target / "Virtual Machines").mkdir(parents=True)
    (target / "Virtual Machines" / "vm.vmcx").symlink_to(outside / "made")
    vmkeep.fails(1, "restore", "latest", "--to", target, says="exists")
    assert list(outside.iterdir()) == []


def test_links_in_the_source_are_not_followed(vmkeep: Vmkeep, tmp_path: Path) -> None:
    source = tmp_path / "vm"
    source.mkdir()
    (source / "d.raw").write_bytes(DATA)
    (tmp_path / "secret.raw").write_bytes(b"s" * 512)
    (source / "folder").symlink_to(tmp_path)
    (source / "notes").symlink_to(tmp_path / "secret.raw")
    done = vmkeep.backup(f"folder:{source}")
    assert [d["name"] for d in vmkeep.points()[0]["disks"]] == ["d"]
    assert "folder, notes" in next(r["fact"] for r in done["reasons"] if r["code"] == "files-left-out")
    # A disk behind a link would be missing from a point that looks complete.
    (source / "link.raw").symlink_to(tmp_path / "secret.raw")
    vmkeep.fails(1, "backup", f"folder:{source}", says="link.raw")


def test_links_in_the_repository_are_not_followed(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(DATA)
    outside = tmp_path / "outside"
    outside.mkdir()
    (vmkeep.repo / "packs").symlink_to(outside)
    vmkeep.fails(11, "backup", "disk:d.raw", says="link")
    assert list(outside.iterdir()) == []


# -- secrets and modes --


def test_whatever_is_made_is_for_its_owner_only(tmp_path: Path) -> None:
    vmkeep = Vmkeep(tmp_path, tmp_path / "new" / "repo", state=tmp_path / "new" / "state")
    before = os.umask(0)
    try:
        vmkeep.ok("repo", "init", vmkeep.repo, "--recovery-key-file", tmp_path / "key")
        (tmp_path / "vm" / "Virtual Machines").mkdir(parents=True)
        (tmp_path / "vm" / "d.raw").write_bytes(DATA)
        (tmp_path / "vm" / "Virtual Machines" / "x.vmcx").write_bytes(b"config")
        vmkeep.backup("folder:vm")
        vmkeep.ok("restore", "latest", "--to", tmp_path / "new" / "back")
        vmkeep.ok("restore", "latest", "--to", tmp_path / "new" / "one.vhdx")
        vmkeep.ok("disk", "convert", "vm/d.raw", tmp_path / "new" / "other.vhd")
    finally:
        os.umask(before)
    made = [tmp_path / "key", *(tmp_path / "new").rglob("*")]
    assert len(made) > 30
    for path in made:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_secrets_stand_nowhere(tmp_path: Path) -> None:
    vmkeep = Vmkeep(tmp_path, tmp_path / "repo")
    new = "canary-of-the-second-password"
    (tmp_path / "new").write_text(new)
    outputs: list[Result] = []

    def note(*arguments: object, **kwargs: Any) -> Result:
        outputs.append(vmkeep(*arguments, **kwargs))
        return outputs[-1]

    assert note("repo", "init", vmkeep.repo, "--recovery-key-file", tmp_path / "key", "-v").code == 0
    recovery = (tmp_path / "key").read_text().strip()
    assert len(recovery) > 20
    (tmp_path / "d.raw").write_bytes(DATA)
    assert note("backup", "disk:d.raw", "--debug", "-v").code == 0
    assert (
        note("repo", "key", "add", vmkeep.repo, "--new-password-file", tmp_path / "new", "--json").code == 0
    )
    assert note("points", "--json", env={"VMKEEP_PASSWORD": new}).code == 0
    assert note("points", env={"VMKEEP_PASSWORD": recovery}).code == 0
    assert note("points", "--debug", env={"VMKEEP_PASSWORD": recovery + "?"}).code == 12
    assert note("points", "--debug", "--password-file", "/nowhere").code == 12
    assert note("points", "--debug", "--password-command", f"printf {new}x").code == 12
    pack = next(p for p in (vmkeep.repo / "packs").rglob("*") if p.is_file())
    pack.write_bytes(pack.read_bytes()[::-1])
    assert note("restore", "latest", "--to", "-", "--debug").code == 14
    assert "Traceback" in outputs[-1].err
    stored = [p.read_bytes() for root in (vmkeep.repo, vmkeep.state) for p in root.rglob("*") if p.is_file()]
    said = [result.out for result in outputs] + [result.err.encode() for result in outputs]
    for secret in (CANARY, new, recovery, recovery.replace("-", "")):
        assert not any(secret.encode() in text for text in stored + said), secret
    # Nor does what is kept for later: names and contents are sealed.
    assert not any(b"d.raw" in text or DATA[:64] in text for text in stored)


def test_the_state_of_this_machine_names_no_secret(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(DATA)
    vmkeep.backup("disk:d.raw")
    files = list(vmkeep.state.iterdir())
    assert {file.name.split("-")[0] for file in files} == {"head", "place", "key"}
    for file in files:
        assert json.loads(file.read_text()) and file.stat().st_mode & 0o777 == 0o600
    assert vmkeep.state.stat().st_mode & 0o777 == 0o700
    # Torn or foreign: memory starts anew, says so, and nothing else is lost.
    for content in (b"", b"{", b"[]", b'{"x": 1}', b"\xff"):
        for file in list(vmkeep.state.iterdir()):
            file.write_bytes(content)
        told = vmkeep("points", "--json")
        assert (told.code, len(told.json)) == (0, 1)
        assert "starts anew" in told.err
        assert len(vmkeep.points()) == 1  # which demands that nothing is said
