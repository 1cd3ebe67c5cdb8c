"""Hold one VM still, yield its frozen disks, and always let go.

Nouns: SourceAddress (where a VM is), Hold (its disks and files while nothing
may move), the hold check. The room does not know repositories: what it needs
from a journal it declares itself.
"""
