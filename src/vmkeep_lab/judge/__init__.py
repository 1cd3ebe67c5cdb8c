"""Compare restored disks with the lab's truth; knows nothing of whoever restored them.

``judge`` hashes files (raw, or a whole VHDX chain read by the lab's own reader) and says which lines of
``truth.jsonl`` each of them equals.
"""

from vmkeep_lab.judge.judge import TruthError, Verdict, judge, read_truth

__all__ = ["TruthError", "Verdict", "judge", "read_truth"]
