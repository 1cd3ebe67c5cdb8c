"""What is committed is ours, small, portable, and names no machine and no registry."""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.architecture.checkout import ROOT, is_binary, project_files, text_of

pytestmark = pytest.mark.quick

LARGEST_FILE: Final = 300 * 1024
FRAGMENT_KINDS: Final = {"added", "changed", "fixed", "removed", "security"}
# Tests may name such a path when it is data: a path inside a guest's disk, say.
_MACHINE_PATH: Final = re.compile(r"(?<![\w./:}~-])/(?:root|home/\w+|Users/\w+)(?![\w.-])")


def texts() -> Iterator[tuple[Path, str]]:
    for path in project_files():
        if not is_binary(path):
            yield path, text_of(path)


# --- addresses --------------------------------------------------------------------


def registry_hosts() -> set[str]:
    """Ask this machine which hosts it installs from; written here, the names would be the fault."""
    script = (
        "from pip._internal.models.index import PyPI, TestPyPI\n"
        "for index in (PyPI, TestPyPI): print(index.simple_url, 'https://' + index.file_storage_domain)\n"
    )
    asked = [[sys.executable, "-W", "ignore", "-c", script], [sys.executable, "-m", "pip", "config", "list"]]
    answers = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in asked
    ]
    answers += [
        value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "NPM_CONFIG_"))
    ]
    apt = Path("/etc/apt")
    answers += [
        p.read_text("utf-8", "replace") for p in (*apt.glob("sources.list"), *apt.glob("sources.list.d/*"))
    ]
    found = re.findall(r"https?://[^\s'\"]+", "\n".join(answers))
    hosts = {urlsplit(address).hostname or "" for address in found}
    return {host for host in hosts if "." in host and not host.replace(".", "").isdigit()}


def named_hosts(text: str, hosts: Iterable[str]) -> list[str]:
    return [
        host for host in hosts if re.search(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", text, re.IGNORECASE)
    ]


def test_no_registry_host_is_named() -> None:
    hosts = registry_hosts()
    assert len(hosts) >= 2, "pip did not tell its default index"
    faults = [f"{path}: {named}" for path, text in texts() if (named := named_hosts(text, hosts))]
    assert not faults, "\n".join(faults)
    for host in hosts:
        assert named_hosts(f"see https://{host}/simple/", hosts) == [host]


def test_lock_lists_hold_versions_and_hashes_only() -> None:
    names = [path for path in project_files() if path.parts[0] == "requirements" and path.suffix == ".txt"]
    assert {path.stem for path in names} >= {"run", "test", "uv"}
    line = re.compile(r"[a-z0-9-]+==[\w.]+( ; [\w .'!=<>()]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    for path in names:
        lines = text_of(path).splitlines()
        assert [text for text in lines if not line.fullmatch(text)] == []
        for before, after in zip(lines, [*lines[1:], "end"], strict=True):
            assert before.endswith("\\") == after.startswith("    --hash"), f"{path}: {before!r} has no hash"


def pins(name: str) -> dict[str, str]:
    return dict(
        re.findall(r"^([a-z0-9-]+)==([\w.]+)", text_of(Path(f"requirements/{name}.txt")), re.MULTILINE)
    )


def test_tests_run_with_the_versions_that_users_get() -> None:
    run, test, kerberos = pins("run"), pins("test"), pins("kerberos")
    assert run
    assert run.items() <= test.items()
    assert run.items() <= kerberos.items()


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads(text_of(Path("pyproject.toml")))

    def names(requirements: Iterable[str]) -> set[str]:
        return {re.split(r"[^\w.-]", text)[0].lower().replace("_", "-") for text in requirements}

    assert names(project["project"]["dependencies"]) <= pins("run").keys()
    assert names(project["dependency-groups"]["test"]) <= pins("test").keys()
    for extra, wanted in project["project"]["optional-dependencies"].items():
        assert names(wanted) <= pins(extra).keys()


def test_no_lock_file_with_addresses() -> None:
    refused = {"uv.lock", "pylock.toml", "poetry.lock", "package-lock.json"}
    assert not [path for path in project_files() if path.name in refused]


def machine_paths(text: str, here: Iterable[str] = ()) -> list[str]:
    found = [match[0] for match in _MACHINE_PATH.finditer(text)]
    return found + [place for place in here if place in text]


def test_no_path_of_one_machine() -> None:
    here = [str(place) for place in (ROOT, ROOT.parent) if len(place.parts) > 2]
    faults = [
        f"{path}: {found}"
        for path, text in texts()
        if path != Path("tests/architecture/test_repository_hygiene.py")
        and (found := machine_paths(text, here))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("text", ["cd /home/bob/x", "see /home/ann/vmkeep", "x=/Users/ann", f"'{ROOT}/src'"])
def test_machine_paths_are_found(text: str) -> None:
    assert machine_paths(text, [str(ROOT)])


@pytest.mark.parametrize("text", ["s3://bucket/root", "/roots", "/tmp/x", "a/root/b", "~/root", "/root.img"])
def test_other_paths_are_not_machine_paths(text: str) -> None:
    assert not machine_paths(text)


# --- files ------------------------------------------------------------------------


def test_no_carriage_returns() -> None:
    faults = [str(p) for p in project_files() if not is_binary(p) and b"\r\n" in (ROOT / p).read_bytes()]
    assert not faults


def test_texts_are_utf8_and_end_with_a_line_break() -> None:
    faults = [str(path) for path, text in texts() if text and not text.endswith("\n")]
    assert not faults


def test_no_file_is_large() -> None:
    faults = [
        f"{p}: {size} bytes" for p in project_files() if (size := (ROOT / p).stat().st_size) > LARGEST_FILE
    ]
    assert not faults, "\n".join(faults)


def makers_of(binary: Path, scripts: Iterable[tuple[Path, str]]) -> list[Path]:
    """Return the scripts in tools/, beside or above a binary file that name it or its folder."""
    return [
        path
        for path, text in scripts
        if (path.parent in binary.parents or path.parts[0] == "tools")
        and (binary.name in text or (len(binary.parts) > 2 and binary.parent.name in text))
    ]


def test_every_binary_file_has_the_script_that_made_it() -> None:
    scripts = [
        (path, text)
        for path, text in texts()
        if path.name.startswith("make") and path.suffix in {".py", ".sh"}
    ]
    faults = [str(p) for p in project_files() if is_binary(p) and not makers_of(p, scripts)]
    assert not faults, f"no make*.py or make*.sh names: {faults}"


def test_makers_are_looked_up_by_name() -> None:
    binary = Path("tests/golden/disks/small.vhdx.zst")
    maker = Path("tests/golden/disks/make_disks.py")
    assert makers_of(binary, [(maker, "writes small.vhdx.zst")]) == [maker]
    assert makers_of(binary, [(maker, "writes other.vhdx")]) == []
    assert makers_of(binary, [(Path("src/make.py"), "writes small.vhdx.zst")]) == []


def test_the_licence_is_apache_2() -> None:
    words = " ".join(text_of(Path("LICENSE")).split())
    terms = words[words.index("Apache License") : words.index("END OF TERMS AND CONDITIONS")]
    # The terms as published, white space aside; only the appendix may be filled in.
    assert hashlib.sha256(terms.encode()).hexdigest() == (
        "d5e4c8942091934e8f11f49efe6055366918b8034549dbfffc2e71a2c4f5de32"
    )
    assert tomllib.loads(text_of(Path("pyproject.toml")))["project"]["license"] == "Apache-2.0"


# --- changelog and decisions ---------------------------------------------------------


def fragment_faults(name: str, text: str) -> list[str]:
    """Say what is wrong with one changelog fragment; the rules stand in changelog.d/README.md."""
    faults = []
    shape = re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*\.([a-z]+)\.md", name)
    if shape is None or shape[1] not in FRAGMENT_KINDS:
        faults.append(f"the name is not WHAT.KIND.md with KIND one of {', '.join(sorted(FRAGMENT_KINDS))}")
    body = text.strip()
    if not re.match(r"[A-Z`]", body) or not body.endswith("."):
        faults.append("it is not made of whole sentences")
    if re.search(r"^(#|[-*] )", body, re.MULTILINE) or "\n\n" in body:
        faults.append("it is more than one paragraph")
    if len(body) > 600:
        faults.append("it is longer than 600 characters")
    return faults


def test_changelog_fragments_are_well_formed() -> None:
    fragments = [p for p in project_files() if p.parts[0] == "changelog.d" and p.name != "README.md"]
    faults = [f"{p}: {fault}" for p in fragments for fault in fragment_faults(p.name, text_of(p))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("disk-compare.new.md", "Disks can be compared."),
        ("Disk Compare.added.md", "Disks can be compared."),
        ("disk-compare.md", "Disks can be compared."),
        ("disk-compare.added.txt", "Disks can be compared."),
        ("disk-compare.added.md", "disks can be compared"),
        ("disk-compare.added.md", ""),
        ("disk-compare.added.md", "# Title\nDisks can be compared."),
        ("disk-compare.added.md", "Disks.\n\nCan be compared."),
        ("disk-compare.added.md", "Long. " * 120),
    ],
)
def test_malformed_fragments_are_found(name: str, text: str) -> None:
    assert fragment_faults(name, text)
    assert not fragment_faults(
        "disk-compare.added.md", "`vmkeep disk compare` tells\nwhere two disks differ.\n"
    )


def decision_faults(pages: Iterable[tuple[str, str]]) -> list[str]:
    """Say what is wrong with the numbering and the titles of the decisions."""
    faults = []
    numbers = []
    for name, text in sorted(pages):
        shape = re.fullmatch(r"(\d{4})-[a-z0-9]+(?:-[a-z0-9]+)*\.md", name)
        if shape is None:
            faults.append(f"{name}: the name is not NNNN-title.md")
            continue
        numbers.append(int(shape[1]))
        if not re.match(rf"# {shape[1]}\. [A-Z`].*[^.\s]\n", text):
            faults.append(f"{name}: the first line is not '# {shape[1]}. Title'")
    if numbers != list(range(1, len(numbers) + 1)):
        faults.append(f"the numbers do not run from 0001 without gap or double: {numbers}")
    return faults


def test_decisions_are_numbered_and_titled() -> None:
    pages = [p for p in project_files() if p.parts[:2] == ("docs", "decisions") and p.name != "README.md"]
    assert not decision_faults((p.name, text_of(p)) for p in pages)


@pytest.mark.parametrize(
    "pages",
    [
        [("0001-a.md", "# 0001. First\n"), ("0003-c.md", "# 0003. Third\n")],
        [("0001-a.md", "# 0001. First\n"), ("0001-b.md", "# 0001. Also first\n")],
        [("0001-a.md", "# 0002. First\n")],
        [("0001-a.md", "First\n")],
        [("a.md", "# 0001. First\n")],
    ],
)
def test_misnumbered_decisions_are_found(pages: list[tuple[str, str]]) -> None:
    assert decision_faults(pages)
    assert not decision_faults([("0002-b.md", "# 0002. Second\n"), ("0001-a.md", "# 0001. First\n")])
