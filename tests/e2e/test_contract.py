"""The command line's contract: names of fields, forms of POINT, exit codes, options, pipes."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.clocks import FakeClock
from tests.e2e.command import CANARY, Result, Vmkeep
from tests.repositories import CHUNK, VM, random_bytes, take
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.repository.repository import Repository
from vmkeep.secrets import Secret

MIB = 1 << 20
WEB, DB1, DB2 = b"web server " * 6000, b"table one ", b"table two "


def raw(content: bytes, size: int = MIB) -> bytes:
    return content[:size].ljust(size, b"\0")


class Story:
    """A repository with two points of the VM ``web`` and one of ``db``, which has two disks."""

    def __init__(self, folder: Path, empty_repository: Path) -> None:
        self.folder = folder
        self.vmkeep = Vmkeep(folder, folder / "repo")
        shutil.copytree(empty_repository, self.vmkeep.repo)
        self.repository_id = json.loads((self.vmkeep.repo / "format").read_text())["repository"]
        self.web = folder / "web.raw"
        self.web.write_bytes(raw(WEB))
        self.db = folder / "db"
        self.db.mkdir()
        (self.db / "one.raw").write_bytes(raw(DB1 * 9000))
        (self.db / "two.raw").write_bytes(raw(DB2 * 9000, 2 * MIB))
        self.first = self.vmkeep.backup(f"disk:{self.web}")
        self.db_point = self.vmkeep.backup(f"folder:{self.db}")
        self.web.write_bytes(raw(b"changed " + WEB))
        self.second = self.vmkeep.backup(f"disk:{self.web}")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, empty_repository: Path) -> Story:
    return Story(tmp_path_factory.mktemp("story"), empty_repository)


@pytest.fixture(scope="module")
def listed(story: Story) -> Any:
    return story.vmkeep.points()


def moment(text: str) -> datetime:
    """Read RFC 3339 and insist on the zone."""
    parsed = datetime.fromisoformat(text)
    assert parsed.utcoffset() == timedelta(0) and text.endswith("Z")
    return parsed


# -- JSON --


def test_points_lists_the_fields_other_tools_rely_on(story: Story, listed: Any) -> None:
    assert [p["id"] for p in listed] == [story.first["id"], story.db_point["id"], story.second["id"]]
    for point in listed:
        promised = "id vm vm_id time consistency method disks bytes_read bytes_stored parent"
        assert set(promised.split()) <= set(point)
        assert UUID(point["vm_id"])
        assert len(point["id"]) == 32 and int(point["id"], 16)
        assert abs(moment(point["time"]) - datetime.now(UTC)) < timedelta(hours=1)
        assert (point["consistency"], point["method"]) == ("crash", "folder")
        assert type(point["bytes_read"]) is type(point["bytes_stored"]) is int
    assert [p["vm"] for p in listed] == ["web", "db", "web"]
    assert listed[0]["disks"] == listed[2]["disks"] == [{"name": "web", "size": MIB}]
    assert listed[1]["disks"] == [{"name": "one", "size": MIB}, {"name": "two", "size": 2 * MIB}]
    assert [p["parent"] for p in listed] == [None, None, story.first["id"]]
    assert listed[0]["vm_id"] == listed[2]["vm_id"] != listed[1]["vm_id"]


def test_list_is_another_name_of_points(story: Story, listed: Any) -> None:
    assert story.vmkeep.ok("list", "--json").json == listed


def test_points_for_people_bears_its_times_with_their_zone(story: Story, listed: Any) -> None:
    lines = story.vmkeep.ok("points").text.splitlines()[1:]
    # As RFC 3339 in UTC, to the second; a program finds the same moments in the JSON.
    assert [line.split()[1] for line in lines] == [p["time"][:19] + "Z" for p in listed]
    for line, point in zip(lines, listed, strict=True):
        assert moment(line.split()[1]) == moment(point["time"]).replace(microsecond=0)
        same = [p for p in listed if (p["vm_id"], p["time"][:19]) == (point["vm_id"], point["time"][:19])]
        shown = story.vmkeep("show", f"{point['vm_id']}@{line.split()[1]}", "--json")
        if len(same) == 1:
            assert (shown.code, shown.json["id"]) == (0, point["id"])
        else:  # quick machines take two points in one second
            assert shown.code == 1 and f"means {len(same)} restore points" in shown.err


def test_a_point_whose_time_lies_in_the_future_is_listed_with_a_note(tmp_path: Path) -> None:
    vmkeep = Vmkeep(tmp_path, tmp_path / "repo")
    clock = FakeClock(datetime.now(UTC) + timedelta(days=30))
    store = DirectoryStore(vmkeep.repo, create=True)
    passwords = {"password": Secret(CANARY)}
    Repository.create(store, passwords, clock, chunk_size=CHUNK, repository_id=b"\1" * 16)
    with Repository.open(store, passwords["password"], clock) as repository:
        ahead = take(repository, VM, {"disk": random_bytes(1, CHUNK)}, clock)
        clock.set_now(datetime.now(UTC) - timedelta(minutes=5))
        right = take(repository, VM, {"disk": random_bytes(2, CHUNK)}, clock)
    listed = vmkeep("points", "--json")
    assert (listed.code, [p["id"] for p in listed.json]) == (0, [right.point.id, ahead.point.id])
    (note,) = listed.err.splitlines()
    assert ahead.point.id[:12] in note and "in the future" in note
    assert vmkeep.restore_raw("latest") == random_bytes(2, CHUNK)


def test_points_of_one_vm_by_name_and_by_id(story: Story, listed: Any) -> None:
    assert story.vmkeep.points("web") == [listed[0], listed[2]]
    assert story.vmkeep.points(listed[1]["vm_id"]) == [listed[1]]
    assert story.vmkeep.points("nobody") == []


def test_a_run_ends_with_a_summary_of_its_point(story: Story, listed: Any) -> None:
    for summary, row in ((story.first, listed[0]), (story.db_point, listed[1]), (story.second, listed[2])):
        assert summary["message_type"] == "summary"
        shared = set(summary) & set(row)
        assert {"id", "vm", "vm_id", "time", "bytes_read", "bytes_stored", "parent"} <= shared
        assert {key: summary[key] for key in shared} == {key: row[key] for key in shared}
        assert summary["exit_code"] == 0


def test_show_tells_what_points_tells_and_more(story: Story, listed: Any) -> None:
    shown = story.vmkeep.ok("show", story.db_point["id"], "--json").json
    assert {key: shown[key] for key in listed[1] if key != "disks"} == {
        key: value for key, value in listed[1].items() if key != "disks"
    }
    disk = shown["disks"][1]
    assert (disk["name"], disk["size"], disk["format"], disk["logical_sector"]) == (
        "two",
        2 * MIB,
        "raw",
        512,
    )
    assert shown["claim"]["asked"] == "preferred"
    assert shown["claim"]["reasons"][0]["code"] == "files-only"
    assert shown["evidence"]["hold_check"] == {"files": 2, "identical": True}
    assert [e["released"] for e in shown["later_evidence"]] == [True]


def test_repo_commands_answer_with_one_document(story: Story) -> None:
    vmkeep = story.vmkeep
    info = vmkeep.ok("repo", "info", vmkeep.repo, "--json").json
    assert info["id"] == story.repository_id
    assert (info["version"], info["chunk_size"], info["put_if_absent"]) == (1, 65536, True)
    assert (info["points"], info["vms"], info["protected_bytes"]) == (3, 2, 5 * MIB)
    packs = [p for kind in ("packs", "maps") for p in (vmkeep.repo / kind).rglob("*") if p.is_file()]
    assert info["bytes_stored"] == sum(p.stat().st_size for p in packs)
    assert info["packs"] + info["map_packs"] == len(packs)
    assert [key["kind"] for key in info["keys"]] == ["password"]
    assert info["recovery_key"] is False
    assert "vmkeep repo key add --recovery-key-file FILE" in vmkeep.ok("repo", "info", vmkeep.repo).text
    without = vmkeep.ok("repo", "info", vmkeep.repo, "--json", env={"VMKEEP_PASSWORD": None}).json
    assert "points" not in without and without["id"] == info["id"]
    checked = vmkeep.ok("repo", "check", vmkeep.repo, "--json").json
    assert (checked["ok"], checked["points"], checked["problems"]) == (True, 3, [])
    assert checked["packs"] == len(packs)
    assert vmkeep.ok("repo", "key", "list", vmkeep.repo, "--json").json == info["keys"]


def test_a_repository_made_where_nobody_looks_has_no_recovery_key_and_says_so(tmp_path: Path) -> None:
    vmkeep = Vmkeep(tmp_path, tmp_path / "repo")
    made = vmkeep("repo", "init", vmkeep.repo, "--json")
    assert (made.code, made.json["recovery_key"]) == (0, False)
    (warning,) = made.err.splitlines()
    assert "vmkeep repo key add --recovery-key-file" in json.loads(warning)["message"]
    assert [p.name for p in (vmkeep.repo / "keys").iterdir()] == [
        key["id"] for key in vmkeep.ok("repo", "key", "list", vmkeep.repo, "--json").json
    ]
    assert "no recovery key" in vmkeep.ok("repo", "info", vmkeep.repo).text
    vmkeep.ok("repo", "key", "add", vmkeep.repo, "--recovery-key-file", tmp_path / "key")
    assert "no recovery key" not in vmkeep.ok("repo", "info", vmkeep.repo).text
    assert vmkeep.ok("repo", "info", vmkeep.repo, "--json").json["recovery_key"] is True
    opened = vmkeep.ok("points", "--password-file", tmp_path / "key", env={"VMKEEP_PASSWORD": None})
    assert opened.text == "no restore points\n"


def test_restore_answers_with_the_files_it_wrote(story: Story, tmp_path: Path) -> None:
    answer = story.vmkeep.ok("restore", "db", "--to", tmp_path / "back", "--json").json
    assert answer["point"] == story.db_point["id"]
    assert [(Path(f["path"]).name, f["disk"], f["size"]) for f in answer["files"]] == [
        ("one.raw", "one", MIB),
        ("two.raw", "two", 2 * MIB),
    ]
    assert (tmp_path / "back" / "one.raw").read_bytes() == raw(DB1 * 9000)


def test_an_error_is_one_json_document_on_standard_error(story: Story) -> None:
    cases: list[tuple[int, tuple[str, ...], dict[str, str | None]]] = [
        (1, ("restore", "nobody", "--to", "-"), {}),
        (2, ("backup", "ftp:there"), {}),
        (2, ("points", "--no-such-option"), {}),
        (2, ("restore", "web", "--to", "-"), {}),  # one of the two can have standard output
        (10, ("points", "--repo", "nowhere"), {}),
        (12, ("points",), {"VMKEEP_PASSWORD": "wrong"}),
    ]
    for code, arguments, env in cases:
        result = story.vmkeep(*arguments, "--json", env=env)
        assert (result.code, result.out) == (code, b"")
        document = json.loads(result.err)
        assert (document["message_type"], document["code"]) == ("exit_error", code)
        assert document["message"].endswith(".") and document["hint"]
        assert document["error"][:2].isupper()


# -- POINT --


def forms(story: Story, listed: Any) -> list[tuple[str, str]]:
    first, db, second = (p["id"] for p in listed)
    time = moment(listed[0]["time"])
    elsewhere = time.astimezone(timezone(timedelta(hours=2)))
    return [
        (first, first),
        (shortest(first, [db, second]), first),
        ("latest", second),
        ("web", second),
        (listed[1]["vm_id"], db),
        ("web@latest", second),
        (f"web@{listed[0]['time']}", first),
        (f"web@{time.strftime('%Y-%m-%d %H:%M:%S.%f')}", first),
        (f"web@{elsewhere.isoformat()}", first),
        (f"db@{time.date().isoformat()[:7]}", db),  # only one point of that VM is of this month
    ]


def shortest(point: str, others: list[str]) -> str:
    return next(point[:n] for n in range(1, 33) if not any(o.startswith(point[:n]) for o in others))


def test_every_form_of_point_is_understood(story: Story, listed: Any) -> None:
    for text, expected in forms(story, listed):
        shown = story.vmkeep.ok("show", text, "--json").json
        assert shown["id"] == expected, text


def test_a_point_that_is_not_meant_clearly_is_refused(story: Story, listed: Any) -> None:
    date = listed[0]["time"][:4]
    for text in ("nobody", "web@1999", "latest@latest", "", "f" * 32, "web@"):
        story.vmkeep.fails(1, "show", text, says="no restore point")
    ambiguous = story.vmkeep.fails(1, "show", f"web@{date}", says="2 restore points")
    assert "points" in ambiguous.err or "id" in ambiguous.err


# -- exit codes and refusals --


def test_usage_errors_end_with_2_and_name_what_is_allowed(story: Story, tmp_path: Path) -> None:
    web = f"disk:{story.web}"
    cases: list[tuple[str, tuple[object, ...]]] = [
        ("not a source", ("backup", "web.raw")),
        ("not a source", ("backup", "disk:")),
        ("no host is called", ("backup", "hyperv://host/vm")),
        ("names no VM behind the slash", ("backup", "hyperv://host/")),
        ("belong together", ("backup", web, "--changes", tmp_path / "x.json")),
        ("required:application", ("backup", web, "--consistency", "best")),
        ("--to", ("restore", "web")),
        ("vhdx", ("restore", "web", "--to", tmp_path / "x", "--format", "iso")),
        ("standard output", ("restore", "web", "--to", "-", "--format", "vhdx")),
        ("named like", ("restore", "web", "--to", tmp_path / "x.raw", "--format", "vhdx")),
        ("named like", ("restore", "web", "--to", tmp_path / "x.qcow2")),
        ("percentage", ("repo", "check", story.vmkeep.repo, "--read-data", "some")),
        ("percentage", ("repo", "check", story.vmkeep.repo, "--read-data", "101%")),
        ("power of two", ("repo", "init", tmp_path / "r", "--chunk-size", "1000")),
        ("memory", ("points", "--repo", "memory:x")),
        ("format", ("disk", "convert", story.web, tmp_path / "nameless")),
        ("such command", ("frobnicate",)),
    ]
    for says, arguments in cases:
        assert story.vmkeep.fails(2, *arguments, says=says).out == b""
    assert not list(tmp_path.iterdir())
    no_repository = story.vmkeep.fails(2, "points", env={"VMKEEP_REPO": None}, says="repository")
    assert "VMKEEP_REPO" in no_repository.err


def test_a_required_consistency_files_cannot_prove_is_refused(story: Story, listed: Any) -> None:
    for level in ("application", "filesystem", "saved", "off"):
        refused = story.vmkeep.fails(1, "backup", f"disk:{story.web}", "--consistency", f"required:{level}")
        assert level in refused.err
    assert story.vmkeep.points() == listed


def test_consistency_policies_that_files_satisfy(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(raw(WEB))
    for policy in ("required:crash", "preferred", "any"):
        vmkeep.backup("disk:d.raw", "--consistency", policy, "--allow-interruption")
        assert vmkeep.ok("show", "latest", "--json").json["claim"]["asked"] == policy


def test_a_disk_is_chosen_by_number_or_name(story: Story, tmp_path: Path) -> None:
    vmkeep = story.vmkeep
    assert vmkeep.restore_raw("db", "--disk", "1") == raw(DB2 * 9000, 2 * MIB)
    assert vmkeep.restore_raw("db", "--disk", "one") == raw(DB1 * 9000)
    for wanted in ("2", "three", "-1", "1.0", ""):
        vmkeep.fails(1, "restore", "db", "--to", "-", f"--disk={wanted}", says="no disk")
    vmkeep.fails(1, "restore", "db", "--to", "-", says="2 disks")
    vmkeep.fails(1, "restore", "db", "--to", tmp_path / "db.vhdx", says="2 disks")
    assert not list(tmp_path.iterdir())
    # One chosen disk goes into a folder alone.
    vmkeep.ok("restore", "db", "--disk", "0", "--to", tmp_path / "back", "--format", "vhd")
    assert [p.name for p in (tmp_path / "back").iterdir()] == ["one.vhd"]


def test_a_restore_repeated_tells_what_it_kept(story: Story, tmp_path: Path) -> None:
    vmkeep, target = story.vmkeep, tmp_path / "back"
    first = vmkeep.ok("restore", "db", "--to", target, "--json").json["files"]
    (target / "two.raw").unlink()
    again = vmkeep.ok("restore", "db", "--to", target, "--json").json["files"]
    assert [(Path(f["path"]).name, f["kept"]) for f in first] == [("one.raw", False), ("two.raw", False)]
    assert [(Path(f["path"]).name, f["kept"]) for f in again] == [("one.raw", True), ("two.raw", False)]
    assert (target / "two.raw").read_bytes() == raw(DB2 * 9000, 2 * MIB)
    lines = vmkeep.ok("restore", "db", "--to", target).text.splitlines()
    assert len(lines) == 2 and all(line.endswith("; kept: identical") for line in lines)


def test_disks_of_one_name_in_two_folders_come_back_with_one_extension(
    vmkeep: Vmkeep, tmp_path: Path
) -> None:
    for number, folder in enumerate(("x", "y")):
        (tmp_path / "vm" / folder).mkdir(parents=True)
        (tmp_path / "vm" / folder / "d.raw").write_bytes(raw(b"%d" % number))
    vmkeep.backup(f"folder:{tmp_path / 'vm'}")
    vmkeep.ok("restore", "latest", "--to", tmp_path / "back")
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["x_d.raw", "y_d.raw"]
    vmkeep.ok("restore", "latest", "--to", tmp_path / "back", "--format", "vhdx")
    assert (tmp_path / "back" / "x_d.vhdx").exists()


def test_a_name_groups_runs_of_different_places(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(raw(WEB))
    (tmp_path / "e.raw").write_bytes(raw(WEB))
    one = vmkeep.backup("disk:d.raw", "--as", "mail")
    two = vmkeep.backup("disk:e.raw", "--as", "mail")
    three = vmkeep.backup("disk:e.raw")
    assert (two["vm"], two["vm_id"], two["parent"]) == ("mail", one["vm_id"], one["id"])
    assert three["vm_id"] != two["vm_id"]
    assert [p["id"] for p in vmkeep.points("mail")] == [one["id"], two["id"]]


# -- options, environment, pipes --


def test_the_password_is_taken_from_the_first_place_named(story: Story, tmp_path: Path) -> None:
    vmkeep = story.vmkeep
    file = tmp_path / "password"
    file.write_text(CANARY + "\r\n")
    wrong: dict[str, str | None] = {"VMKEEP_PASSWORD": "wrong"}
    good: tuple[tuple[str, ...], ...] = (
        ("--password-file", str(file)),
        ("--password-command", f"cat '{file}'"),
    )
    for options in good:
        assert len(vmkeep.ok("points", "--json", *options, env=wrong).json) == 3
    typed = vmkeep.ok("points", "--json", "--password-file", "/dev/stdin", env=wrong, stdin=CANARY.encode())
    assert len(typed.json) == 3
    nothing: dict[str, str | None] = {"VMKEEP_PASSWORD": None}
    cases: list[tuple[str, tuple[str, ...], dict[str, str | None]]] = [
        ("needed", (), nothing),
        ("empty", (), {"VMKEEP_PASSWORD": ""}),
        ("password file", ("--password-file", str(tmp_path / "none")), nothing),
        ("exit code 1", ("--password-command", "false"), nothing),
        ("cannot be started", ("--password-command", "/no/such/program"), nothing),
        ("wrong", (), wrong),
    ]
    for says, options, env in cases:
        vmkeep.fails(12, "points", *options, env=env, says=says)


def test_the_repository_is_named_by_option_or_environment(story: Story, tmp_path: Path) -> None:
    vmkeep, here = story.vmkeep, str(story.vmkeep.repo)
    elsewhere = {"VMKEEP_REPO": str(tmp_path)}
    for options in (("--repo", here), ("-r", here), ("-r", "file://" + here), (f"--repo={here}",)):
        assert len(vmkeep.ok("points", "--json", *options, env=elsewhere).json) == 3
    assert vmkeep.ok("repo", "info", "--json").json["id"] == story.repository_id
    vmkeep.fails(10, "points", env=elsewhere, says="no repository")


def test_quiet_and_verbose_change_what_is_said(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(raw(WEB))
    assert vmkeep.ok("backup", "disk:d.raw", "-q").out == b""
    plain, verbose = vmkeep.ok("backup", "disk:d.raw"), vmkeep.tells("-v", "backup", "disk:d.raw")
    assert "restore point" in plain.text and "promised as" not in plain.text
    assert "promised as crash-consistent" in verbose.text
    assert vmkeep.ok("restore", "latest", "--to", tmp_path / "r1", "--quiet").out == b""
    assert len(vmkeep.ok("points", "-q").text.splitlines()) == 4  # results are what was asked for
    assert b"\x1b" not in vmkeep.ok("show", "latest", "--no-color").out


def test_debug_adds_the_traceback_to_the_sentence(story: Story) -> None:
    result = story.vmkeep("show", "nobody", "--debug")
    assert result.code == 1
    assert "Traceback" in result.err and "PointNotFound" in result.err
    assert result.err.splitlines()[-2].startswith("vmkeep: no restore point is called")


def test_help_and_version_need_nothing(tmp_path: Path) -> None:
    vmkeep = Vmkeep(tmp_path, tmp_path / "nowhere")
    env: dict[str, str | None] = {"VMKEEP_REPO": None, "VMKEEP_PASSWORD": None}
    assert vmkeep.ok("--version", env=env).text.startswith("vmkeep ")
    overview = vmkeep.ok("--help", env=env).text
    for name in ("demo", "backup", "points", "show", "restore", "repo", "disk"):
        assert name in overview
    for command in (("backup",), ("restore",), ("repo", "init"), ("repo", "check"), ("disk", "convert")):
        assert "Usage:" in vmkeep.ok(*command, "-h", env=env).text
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_ends_the_restore_silently(story: Story) -> None:
    process = story.vmkeep.start("restore", "db", "--disk", "two", "--to", "-")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(5) == b"table"
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), err) == (1, b"")


@contextmanager
def device_full() -> Iterator[int]:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("arguments", [("restore", "web", "--to", "-"), ("points",), ("points", "--json")])
def test_standard_output_that_takes_nothing_is_an_error(story: Story, arguments: tuple[str, ...]) -> None:
    with device_full() as fd:
        process = story.vmkeep.start(*arguments, stdout=fd)
        _, err = process.communicate(timeout=60)
    result = Result(process.returncode, b"", err.decode())
    assert result.code == 1
    assert "no space left" in result.err
    assert "Exception ignored" not in result.err


def test_output_that_cannot_hold_a_name_shows_its_codes(vmkeep: Vmkeep, tmp_path: Path) -> None:
    # A redirected console of Windows, or an old locale.
    name = "\u30b5\u30fc\u30d0 \u00e4"
    (tmp_path / f"{name}.raw").write_bytes(raw(WEB))
    env: dict[str, str | None] = {"PYTHONIOENCODING": "cp1252"}
    for arguments in (
        ("backup", f"disk:{name}.raw"),
        ("points",),
        ("show", name),
        ("disk", "info", f"{name}.raw"),
    ):
        out = vmkeep.ok(*arguments, env=env).out.decode("cp1252")
        assert "\\u30b5" in out and "\u00e4" in out, arguments
    result = vmkeep("show", name + "?", env=env)
    assert (result.code, "\\u30b5" in result.err) == (1, True)


def test_a_closed_standard_output_is_no_traceback(story: Story) -> None:
    def close_output() -> None:
        os.close(1)

    listed = story.vmkeep("points", before_exec=close_output)
    assert (listed.code, listed.err) == (0, "")
    story.vmkeep.fails(2, "restore", "web", "--to", "-", before_exec=close_output, says="closed")


def test_a_closed_standard_error_stops_nothing(vmkeep: Vmkeep, tmp_path: Path) -> None:
    def close_errors() -> None:
        os.close(2)

    (tmp_path / "d.raw").write_bytes(raw(WEB))
    backed = vmkeep("backup", "disk:d.raw", "--json", before_exec=close_errors)
    assert (backed.code, backed.json["vm"]) == (0, "d")
    restored = vmkeep("restore", "d", "--to", "back.raw", before_exec=close_errors)
    assert restored.code == 0
    assert (tmp_path / "back.raw").read_bytes() == raw(WEB)
    assert vmkeep("repo", "check", before_exec=close_errors).code == 0
    # What would be said there is said nowhere: not in the result.
    refused = vmkeep("backup", "disk:nowhere.raw", before_exec=close_errors)
    assert (refused.code, refused.out) == (1, b"")


def test_a_point_whose_result_cannot_be_printed_is_said_to_be_taken(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(raw(WEB))
    with device_full() as fd:
        process = vmkeep.start("backup", "disk:d.raw", stdout=fd)
        _, err = process.communicate(timeout=60)
    [point] = vmkeep.ok("points", "--json").json
    assert process.returncode == 3, err
    assert f"{point['id']} is taken" in err.decode() and "no space left" in err.decode()
