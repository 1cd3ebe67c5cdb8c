"""Names from a manifest become names of files, one component each, on any system."""

import unicodedata
from pathlib import PurePath, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmkeep.restore.names import Places, safe_file_name

pytestmark = pytest.mark.quick

# Names of devices, with or without an extension ("Naming Files, Paths, and Namespaces", Win32).
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def is_safe(text: str) -> bool:
    return (
        PurePosixPath(text).parts == (text,)
        and PureWindowsPath(text).parts == (text,)
        and text not in (".", "..")
        and not set(text) & set('<>:"/\\|?*')
        and all(ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0 for c in text)
        and not set(text) & set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
        and text.split(".")[0].strip().lower() not in DEVICES
        and not text.endswith((".", " "))
        and not text.startswith(("-", "~"))
        and len(text.encode("utf-8")) <= 200
    )


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=300))
def test_any_text_becomes_one_safe_component(name: str) -> None:
    assert is_safe(safe_file_name(name)), repr(safe_file_name(name))


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "...", " ", "a.", "a ", "a. .", "CON", "con.txt", "Aux", "NUL.", "COM1", "lpt9.vmcx",
        "COM\u00b9", "con .txt", "C:", "a/b", "..\\..", "\0", "\r\n", "\x1b[31m", "\u202etxt.exe", "-rf", "~",
        "x" * 400,
        "\u00e4" * 200, "\ud800", "\udcff", "a" * 179 + ". ", "%2e%2e", "com0", "nul .x",
    ],
)  # fmt: skip
def test_awkward_names(name: str) -> None:
    assert is_safe(safe_file_name(name)), repr(safe_file_name(name))


@pytest.mark.parametrize(
    "name", ["web", "Web Server 2019", "d.old", "\u30b5\u30fc\u30d0", "a-b_c+d", "100%", "(1)"]
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert safe_file_name(name) == name


# -- all names of one restore together --


@given(st.lists(st.text(min_size=1, max_size=8).filter(lambda t: "/" not in t), min_size=1, max_size=4))
def test_folders_stay_below_the_target(parts: list[str]) -> None:
    path = Places().add_file("/".join(parts))
    assert not path.is_absolute() and len(path.parts) == len(parts)
    assert all(is_safe(part) for part in path.parts)


def same_somewhere(path: PurePath) -> str:
    """What NTFS, APFS or a FAT card may take for one: any case, either form of accents."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path.as_posix()).upper().lower())


ODD = st.text(alphabet="aAbB:%3/\u00e9\u00c9e\u0301.x", min_size=1, max_size=6).map(
    lambda t: t.strip("/") or "a"
)


@given(st.lists(ODD, max_size=12), st.lists(ODD, max_size=12))
def test_no_two_files_of_a_restore_are_one_anywhere(disks: list[str], files: list[str]) -> None:
    places = Places()
    names = [name.replace("/", "") or "d" for name in disks]
    paths = [places.add_disk(name, name, ".raw") for name in names]
    paths += [places.add_file("/".join(part or "p" for part in name.split("/"))) for name in files]
    folded = [same_somewhere(path) for path in paths]
    assert len(set(folded)) == len(paths)
    # Nor does a file stand where another needs a folder.
    above = {same_somewhere(parent) for path in paths for parent in path.parents}
    assert not above & set(folded)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Snapshots/a.vmcx", "snapshots/A.VMCX"),
        ("caf\u00e9.vmcx", "cafe\u0301.vmcx"),
        ("CAF\u00c9.vmcx", "cafe\u0301.vmcx"),
        ("x" * 200 + "1.vmcx", "x" * 200 + "2.vmcx"),
        ("a:.vmcx", "a%3A.vmcx"),
        ("same.vmcx", "same.vmcx"),
    ],
)
def test_names_that_become_one_are_told_apart_and_keep_their_ending(first: str, second: str) -> None:
    places = Places()
    one, other = places.add_file(first), places.add_file(second)
    assert same_somewhere(one) != same_somewhere(other)
    assert one.suffix.lower() == other.suffix.lower() == ".vmcx"
    assert is_safe(one.name) and is_safe(other.name)


def test_long_disks_keep_their_extension_and_stay_two() -> None:
    places = Places()
    one, other = (places.add_disk(name, name, ".vhdx") for name in ("d" * 300 + "1", "d" * 300 + "2"))
    assert one.suffix == other.suffix == ".vhdx" and one != other
    assert max(len(path.name.encode()) for path in (one, other)) <= 200


def test_a_name_is_the_same_in_every_restore() -> None:
    pairs = []
    for _ in range(2):
        places = Places()
        pairs.append([places.add_disk(name, name, ".raw") for name in ("Web", "web", "WEB")])
    assert pairs[0] == pairs[1] and len(set(pairs[0])) == 3
    assert pairs[0][0] == PurePath("Web.raw")
