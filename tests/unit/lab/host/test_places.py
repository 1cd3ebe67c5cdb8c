"""A host's paths never lead out of the lab's folder."""

from pathlib import Path

import pytest

from vmkeep_lab.cim import WmiError
from vmkeep_lab.host.places import Places, stem_of

pytestmark = pytest.mark.quick


def test_paths_are_compared_without_case(tmp_path: Path) -> None:
    places = Places(tmp_path)
    first = places.real(r"C:\VMs\Web\a.vhdx")
    first.parent.mkdir(parents=True)
    first.touch()
    assert places.real(r"c:\vms\WEB\A.VHDX") == first
    assert first == tmp_path / "files" / "C" / "VMs" / "Web" / "a.vhdx"


@pytest.mark.parametrize("path", [r"C:\VMs\..\..\x", "relative", r"\\server\share\x", "C:/VMs", ""])
def test_what_leads_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(WmiError):
        Places(tmp_path).real(path)


def test_the_name_of_a_disk_without_its_checkpoint() -> None:
    assert stem_of(r"C:\a\web_7F0C2E1A-0000-4000-8000-0000000000D2.avhdx") == "web"
    assert stem_of(r"C:\a\web_one.vhdx") == "web_one"
