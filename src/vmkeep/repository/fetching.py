"""Read whole objects, but none larger than vmkeep writes: a planted one must not fill the memory."""

from typing import Final

from vmkeep.objectstore.store import ObjectInfo, Store
from vmkeep.repository.errors import Tampered

# A box holds at most 256 MiB after decompression, and is stored no larger than that and some.
MAX_BOX_BYTES: Final = (256 << 20) + 4096


def fetch(store: Store, what: ObjectInfo | str, limit: int = MAX_BOX_BYTES) -> bytes:
    """Return an object of at most ``limit`` bytes; its size is asked for unless a listing told it.

    Raises ObjectMissing, or Tampered for one that is larger than any writer makes it.
    """
    info = store.head(what) if isinstance(what, str) else what
    if info is not None and info.size > limit:
        raise Tampered(f"the object {info.name} is larger than any vmkeep writes.", object=info.name)
    return store.get(info.name if info is not None else str(what))
