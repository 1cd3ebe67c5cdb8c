"""`disk check` of files whose tables are nonsense: everything is counted, not everything kept."""

from pathlib import Path

import pytest

from tests.generators.vhdx_bytes import MIB, make_vhdx
from vmkeep.cli.disk import disk_check

pytestmark = pytest.mark.quick


def test_the_first_thousand_errors_and_warnings_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    made = make_vhdx(disk_size=1500 * MIB)
    for block in range(1500):
        made.set_u64(made.entry_at(block), 4 | 1 << 10)  # a reserved state, and a reserved bit
    file = tmp_path / "a.vhdx"
    file.write_bytes(bytes(made.data))
    result = disk_check(file)
    assert (result["errors"], result["warnings"], result["ok"]) == (1500, 1500, False)
    assert len(result["findings"]) == 2000
    assert sum(finding["severity"] == "error" for finding in result["findings"]) == 1000
