"""A file with a recovery key stays exactly when the key may be of use."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from vmkeep.cli.repo import _handed_over
from vmkeep.objectstore.errors import StoreUnavailable
from vmkeep.secrets import Secret

pytestmark = pytest.mark.quick


def _no_answer() -> NoReturn:
    raise StoreUnavailable("the store gave no answer.")


@pytest.mark.parametrize(
    ("is_stored", "stays"),
    [(lambda: False, False), (lambda: True, True), (_no_answer, True)],
    ids=["not stored", "stored", "nobody knows"],
)
@pytest.mark.parametrize("error", [StoreUnavailable("lost."), KeyboardInterrupt()])
def test_after_a_failure_the_file_stays_if_the_key_may_be_stored(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    is_stored: Callable[[], bool],
    *,
    stays: bool,
) -> None:
    file = tmp_path / "key"
    with pytest.raises(type(error)), _handed_over(Secret("AAAA-BBBB"), file, is_stored):
        assert file.read_bytes() == b"AAAA-BBBB\n"
        raise error
    assert file.exists() == stays
    assert ("was kept" in capsys.readouterr().err) == stays


def test_a_file_that_was_there_is_nobodys_to_remove(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("an older key")
    with pytest.raises(FileExistsError), _handed_over(Secret("AAAA-BBBB"), file, lambda: False):
        pass
    assert file.read_text() == "an older key"
