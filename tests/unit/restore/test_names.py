"""Names from a manifest become names of files, one component each, on any system."""

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmkeep.restore.names import safe_file_name, safe_relative_path

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


@given(st.lists(st.text(min_size=1, max_size=8).filter(lambda t: "/" not in t), min_size=1, max_size=4))
def test_folders_stay_below_the_target(parts: list[str]) -> None:
    path = safe_relative_path("/".join(parts))
    assert not path.is_absolute() and len(path.parts) == len(parts)
    assert all(is_safe(part) for part in path.parts)
