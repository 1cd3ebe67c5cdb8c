import pytest

from vmkeep.host.files.errors import BadHostPath, BadPathMap, PathNotMapped
from vmkeep.host.files.paths import FolderPlace, PathMap, SharePlace, parse_host_path

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("path", "root", "parts"),
    [
        (r"C:\VMs\a\b.vhdx", "C:", ("VMs", "a", "b.vhdx")),
        ("C:\\", "C:", ()),
        ("C:", "C:", ()),
        (r"c:/VMs//a\.\b", "c:", ("VMs", "a", "b")),
        (r"\\?\C:\VMs\b.vhdx", "C:", ("VMs", "b.vhdx")),
        (r"\\?\UNC\srv\share\x", r"\\srv\share", ("x",)),
        (r"\\srv\share\x\y", r"\\srv\share", ("x", "y")),
        (r"//srv/share", r"\\srv\share", ()),
    ],
)
def test_takes_paths_apart(path: str, root: str, parts: tuple[str, ...]) -> None:
    found = parse_host_path(path)
    assert (found.root, found.parts) == (root, parts)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "VMs",
        r"\VMs",
        r"C:VMs",
        r"C:\..\x",
        r"C:\a\..",
        r"C:\a:b",
        r"C:\a::$DATA",
        r"C:\a.",
        r"C:\a \b",
        r"C:\NUL",
        r"C:\nul.vhdx",
        r"C:\COM¹",
        r"C:\aux \x",
        r"C:\CONIN$",
        "C:\\a\0b",
        "C:\\a\nb",
        r"C:\a*",
        "C:\\a\ud800b",
        r"\\.\PhysicalDrive0",
        r"\\?\Volume{3d7a0e5b-0000-0000-0000-100000000000}\x",
        r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1\x",
        r"\??\C:\x",
        r"\\?\C:\a/b",
        r"\\?\C:\.\b",
        r"\\srv",
        r"\\srv\\x",
        r"\\..\share",
        "1:\\x",
        "C:\\" + "a" * 256,
        "C:\\" + "a\\" * 20_000,
        "file:///C:/x",
    ],
)
def test_refuses_what_windows_reads_in_other_ways(path: str) -> None:
    with pytest.raises(BadHostPath):
        parse_host_path(path)


RULES = {
    "C:\\VMs": "smb://10.0.0.7/VMs",
    "c:\\vms\\Deep": "file:///mnt/deep",
    "\\\\SOFS\\share": "smb://sofs.example:4450/share/sub%20folder",
    "C:\\Straße": "smb://other/s",
}


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (r"D:\x\y", ("", None, "D$", ("x", "y"))),
        (r"d:\x", ("", None, "D$", ("x",))),
        (r"C:\ClusterStorage\Volume1\a.vhdx", ("", None, "C$", ("ClusterStorage", "Volume1", "a.vhdx"))),
        (r"C:\VMs\a", ("10.0.0.7", None, "VMs", ("a",))),
        (r"c:\vmS", ("10.0.0.7", None, "VMs", ())),
        (r"C:\VMsx\a", ("", None, "C$", ("VMsx", "a"))),
        (r"\\sofs\SHARE\a", ("sofs.example", 4450, "share", ("sub folder", "a"))),
        (r"C:\STRASSE\a", ("", None, "C$", ("STRASSE", "a"))),
    ],
)
def test_the_longest_rule_decides(path: str, place: tuple[str, int | None, str, tuple[str, ...]]) -> None:
    assert PathMap(RULES).place(path) == SharePlace(*place)


def test_a_folder_of_this_machine() -> None:
    place = PathMap(RULES).place(r"C:\VMs\deep\a\b")
    assert isinstance(place, FolderPlace)
    assert (place.root.as_posix(), place.parts) == ("/mnt/deep", ("a", "b"))


def test_the_account_is_shown_to_no_other_server() -> None:
    with pytest.raises(PathNotMapped):
        PathMap(RULES).place(r"\\evil\share\a.vhdx")
    with pytest.raises(PathNotMapped):
        PathMap(RULES).place(r"\\sofs\shared\a.vhdx")


def test_the_path_inside_a_share() -> None:
    assert SharePlace("", None, "C$", ("a", "b c")).path == "a\\b c"


@pytest.mark.parametrize(
    "rules",
    [
        {"VMs": "smb://host/VMs"},
        {"C:\\..": "smb://host/VMs"},
        {"C:\\VMs": "smb://host"},
        {"C:\\VMs": "smb:///VMs"},
        {"C:\\VMs": "smb://host/VMs/.."},
        {"C:\\VMs": "smb://host/VMs/%2e%2e"},
        {"C:\\VMs": "smb://host:port/VMs"},
        {"C:\\VMs": "smb://user:password@host/VMs"},
        {"C:\\VMs": "smb://host/VMs?x"},
        {"C:\\VMs": "file://server/VMs"},
        {"C:\\VMs": "file:VMs"},
        {"C:\\VMs": "file:///a/../b"},
        {"C:\\VMs": "/mnt/vms"},
        {"C:\\VMs": "https://host/VMs"},
        {"C:\\VMs": "smb://a/b", "c:\\vms": "smb://a/c"},
    ],
)
def test_refuses_rules_that_cannot_be_meant(rules: dict[str, str]) -> None:
    with pytest.raises(BadPathMap):
        PathMap(rules)
