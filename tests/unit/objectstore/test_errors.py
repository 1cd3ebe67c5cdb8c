import errno
import os

import pytest

from vmkeep.errors import ExitCode, Retry
from vmkeep.objectstore import errors
from vmkeep.objectstore.errors import (
    BadObjectName,
    StoreError,
    StoreForbidden,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    explain_os_error,
)

pytestmark = pytest.mark.quick

LEAVES = [leaf for leaf in vars(errors).values() if isinstance(leaf, type) and issubclass(leaf, StoreError)]


def test_every_leaf_has_its_own_code_and_says_what_to_do() -> None:
    codes = [leaf.code for leaf in LEAVES]
    assert len(set(codes)) == len(codes) == 12
    assert all(code.startswith("OS") for code in codes)
    assert all(leaf.default_hint for leaf in LEAVES if leaf is not StoreError)


def test_the_command_line_contract() -> None:
    exits = {leaf.__name__: leaf.exit_code for leaf in LEAVES if leaf.exit_code != ExitCode.FAILED}
    assert exits == {
        "ObjectShort": ExitCode.MISMATCH,
        "StoreMissing": ExitCode.REPOSITORY_MISSING,
        "StoreUnsupported": ExitCode.BUSY,
    }
    later = [leaf.__name__ for leaf in LEAVES if leaf.retry is Retry.LATER]
    assert later == ["StoreUnavailable", "ObjectUnreadable"]


# The meanings of open(2), write(2), link(2), unlink(2).
@pytest.mark.parametrize(
    ("code", "writing", "leaf"),
    [
        (errno.ENOSPC, True, StoreFull),
        (errno.EDQUOT, True, StoreFull),
        (errno.EFBIG, True, StoreFull),
        (errno.EROFS, True, StoreReadOnly),
        (errno.EACCES, True, StoreReadOnly),
        (errno.EPERM, True, StoreReadOnly),
        (errno.EACCES, False, StoreForbidden),
        (errno.EPERM, False, StoreForbidden),
        (errno.EIO, True, StoreUnavailable),
        (errno.EIO, False, StoreUnavailable),
        (errno.ESTALE, False, StoreUnavailable),
        (errno.ENAMETOOLONG, True, BadObjectName),
    ],
)
def test_an_answer_of_the_system_gets_its_meaning(code: int, writing: bool, leaf: type[StoreError]) -> None:
    error = explain_os_error(
        OSError(code, os.strerror(code)), "store 'a/b'", address="/srv/r", writing=writing
    )
    assert type(error) is leaf
    assert error.message == f"cannot store 'a/b' in '/srv/r': {os.strerror(code).lower()}."
    assert error.context["errno"] == code


def test_a_file_in_use_on_windows_may_be_free_later() -> None:
    error = OSError(errno.EACCES, "The process cannot access the file")
    error.winerror = 32  # type: ignore[attr-defined,unused-ignore]
    assert type(explain_os_error(error, "delete 'a'", address="r", writing=True)) is StoreUnavailable
