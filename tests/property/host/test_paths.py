"""Laws of host paths: what is accepted has one meaning, and nothing leads out of where it is mapped to."""

import os
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vmkeep.host.files.errors import BadHostPath, FileMissing, HostFileError, LinkRefused
from vmkeep.host.files.local import LocalFile
from vmkeep.host.files.paths import FolderPlace, PathMap, SharePlace, parse_host_path

pytestmark = pytest.mark.quick

# What a name is made of, and what an attacker makes one of.
ANYTHING = st.text(st.sampled_from('aB.ß\u202e \\/:*?<>|"\0\n~$%é😀\ud800') | st.characters(), max_size=12)
HOSTILE = st.sampled_from(
    ["..", ".", "...", "C:", "\\\\?\\", "NUL", "con.txt", "a.", "b ", "x:y", "", "~1", "%2e%2e"]
)
PATHS = st.lists(ANYTHING | HOSTILE, max_size=6).map("\\".join)
ROOTS = st.sampled_from(["C:\\", "c:/", "\\\\?\\D:\\", "\\\\srv\\share\\", "\\\\?\\UNC\\srv\\share\\", ""])
NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='<>:"/\\|?*'), min_size=1, max_size=30
).filter(lambda name: name[-1] not in ". ")


@given(ROOTS, PATHS)
def test_what_is_accepted_is_plain(root: str, rest: str) -> None:
    try:
        path = parse_host_path(root + rest)
    except BadHostPath:
        return
    for part in path.parts:
        assert part not in {"", ".", ".."}
        assert not set(part) & set('\\/:*?<>|"\0\n')
        assert part[-1] not in ". "
        assert part.encode("utf-16-le")
        # Python's own list of what Windows takes for a device, as a second opinion.
        assert not PureWindowsPath(part).is_reserved()
    assert parse_host_path(str(path)) == path


@given(st.lists(NAMES, max_size=5))
def test_names_come_back(names: list[str]) -> None:
    assume(not any(PureWindowsPath(name).is_reserved() for name in names))
    try:
        path = parse_host_path("\\".join(["C:", *names]) if names else "C:\\")
    except BadHostPath as error:
        # Two devices Python does not know of.
        assert any(name.upper().startswith(("CONIN$", "CONOUT$")) for name in names), error
        return
    assert path.parts == tuple(names)
    assert PathMap().place(str(path)) == SharePlace("", None, "C$", tuple(names))


@given(st.lists(NAMES, min_size=1, max_size=3), st.lists(NAMES, max_size=3))
def test_a_rule_catches_its_folder_in_any_case_and_nothing_beside(prefix: list[str], rest: list[str]) -> None:
    assume(not any(PureWindowsPath(name).is_reserved() for name in prefix + rest))
    assume(not any(name.upper().startswith(("CONIN$", "CONOUT$")) for name in prefix + rest))
    paths = PathMap({"\\".join(["c:", *prefix]): "smb://other/Share/deep"})
    inside = "\\".join(["C:", *prefix, *rest])
    assert paths.place(inside) == SharePlace("other", None, "Share", ("deep", *rest))
    beside = "\\".join(["C:", *prefix[:-1], prefix[-1] + "x", *rest])
    assert paths.place(beside) == SharePlace("", None, "C$", parse_host_path(beside).parts)


@given(ROOTS, PATHS)
def test_a_mapped_folder_is_never_left(
    tmp_path_factory: pytest.TempPathFactory, root: str, rest: str
) -> None:
    """Whatever is asked for: no byte from outside, on a folder full of links that lead outside."""
    base = _trap(tmp_path_factory)
    paths = PathMap({"C:\\": (base / "inside").as_uri(), "\\\\srv\\share": (base / "inside").as_uri()})
    try:
        place = paths.place(root + rest)
    except HostFileError:
        return
    if not isinstance(place, FolderPlace):
        return
    assert not any(os.sep in part or part in {"..", "."} for part in place.parts)
    try:
        file = LocalFile(place, "name")
    except HostFileError:
        return
    buffer = bytearray(100)
    got = file.read_into(0, memoryview(buffer))
    file.close()
    assert b"secret" not in buffer[:got]


def _trap(factory: pytest.TempPathFactory) -> Path:
    base = factory.getbasetemp() / "trap"
    if not base.exists():
        (base / "inside" / "folder").mkdir(parents=True)
        (base / "inside" / "aB").write_bytes(b"inside")
        (base / "secret").write_bytes(b"secret")
        for place in (base / "inside", base / "inside" / "folder"):
            for name, target in (
                ("a", base / "secret"),
                ("B", base),
                ("~1", Path("..")),
                ("é", Path("../secret")),
            ):
                (place / name).symlink_to(target)
    return base


@given(
    st.sampled_from(["a", "B\\secret", "~1\\secret", "folder\\a", "folder\\~1\\~1\\secret", "é", "folder\\é"])
)
def test_the_trap_is_one(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    """Each of these would be the secret if links were followed."""
    base = _trap(tmp_path_factory)
    place = PathMap({"C:\\": (base / "inside").as_uri()}).place(f"C:\\{path}")
    assert isinstance(place, FolderPlace)
    with pytest.raises((LinkRefused, FileMissing)):
        LocalFile(place, path)
