"""Read the ranges a user declares as changed since an earlier restore point."""

import json
from pathlib import Path

from vmkeep.backup.errors import ChangesUnusable
from vmkeep.ranges import ByteRange, normalise


def read_changes(file: Path) -> list[ByteRange]:
    """Return a range list from ``[[offset, length], ...]`` or an object with ``ranges``, in bytes.

    Raises ChangesUnusable naming the file and the first entry that is wrong.
    """
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ChangesUnusable(
            f"cannot read the changes file {str(file)!r}: {(error.strerror or '').lower()}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ChangesUnusable(f"the changes file {str(file)!r} is not JSON.") from error
    entries = content.get("ranges") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise ChangesUnusable(f"the changes file {str(file)!r} holds no list of ranges.")
    ranges = []
    for number, entry in enumerate(entries):
        whole = isinstance(entry, list) and len(entry) == 2 and all(type(n) is int and n >= 0 for n in entry)
        if not whole:
            raise ChangesUnusable(
                f"entry {number} of the changes file {str(file)!r} is not [offset, length] in whole bytes."
            )
        ranges.append(ByteRange(*entry))
    return normalise(ranges)
