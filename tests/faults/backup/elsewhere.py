"""Run the command on a machine that will not come back: ``ORDER ARG...`` as tests.faults.cli.meeting has it.

What tells its processes from those of any other machine is of its own, and its day is an hour ago:
whoever looks now finds that its claims have ended.
"""

import runpy
from datetime import UTC, datetime, timedelta

from vmkeep import clock
from vmkeep.repository import owners

if __name__ == "__main__":
    vars(owners)["_boot_id"] = lambda: "of another machine"
    clock.SystemClock.now = lambda self: datetime.now(UTC) - timedelta(hours=1)  # type: ignore[method-assign]
    runpy.run_module("tests.faults.cli.meeting", run_name="__main__", alter_sys=True)
