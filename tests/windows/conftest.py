"""These tests are about Windows and are collected nowhere else; `./dev windows` runs them under Wine."""

import os

collect_ignore_glob = [] if os.name == "nt" else ["test_*.py"]
