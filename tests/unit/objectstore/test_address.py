from pathlib import Path

import pytest

from vmkeep.errors import ExitCode, UsageError
from vmkeep.objectstore.address import open_store
from vmkeep.objectstore.errors import StoreMissing, StoreUnsupported

pytestmark = pytest.mark.quick


def test_a_path_and_its_url_are_the_same_place(tmp_path: Path) -> None:
    folder = tmp_path / "with space %20 and #"
    open_store(str(folder), create=True).put("format", b"1")
    for address in (
        str(folder),
        f"file://{tmp_path}/with%20space%20%2520%20and%20%23",
        f"FILE://localhost{tmp_path}/with%20space%20%2520%20and%20%23",
    ):
        store = open_store(address)
        assert store.get("format") == b"1"
        assert store.address == str(folder)


def test_a_colon_is_allowed_where_it_cannot_be_a_scheme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("./s3:folder", create=True)
    open_store("C:", create=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["C:", "s3:folder"]


@pytest.mark.parametrize("address", ["nowhere", "file:///no/such/place"])
def test_nothing_there_is_missing(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreMissing) as caught:
        open_store(address)
    assert caught.value.exit_code == ExitCode.REPOSITORY_MISSING
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["s3://bucket/prefix", "az://container", "S3:bucket"])
def test_what_comes_later_says_so(address: str) -> None:
    with pytest.raises(StoreUnsupported) as caught:
        open_store(address, create=True)
    assert "later version" in caught.value.message
    assert caught.value.exit_code == ExitCode.BUSY


@pytest.mark.parametrize(
    "address",
    [
        "", "memory:", "memory://", "sftp://host/place", "https://example.org", "user:place",
        "file:place", "file:/place", "file://host/place", "file://", "file:///a?b", "file:///a#b",
        "a\0b", "file:///a%00b",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_meant_is_a_usage_error(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        open_store(address, create=True)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []
