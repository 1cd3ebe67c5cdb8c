"""Backup and recovery for Microsoft Hyper-V with nothing installed on the host.

The rooms and the direction in which they may import each other are drawn in
``docs/architecture.md`` and enforced by ``./dev check``.
"""

__version__ = "0.1.0"
