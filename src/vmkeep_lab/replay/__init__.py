"""Answer with what a host said when somebody recorded it: docs/trace.md is all that this room knows.

``trace`` reads the file, ``question`` says when two requests ask the same, ``service`` answers. It models no
host: what was not recorded, it does not know.
"""

from vmkeep_lab.replay.service import Replay
from vmkeep_lab.replay.trace import Exchange, TraceError, read_trace

__all__ = ["Exchange", "Replay", "TraceError", "read_trace"]
