"""Virtual disks that change: real VHDX files, a guest that writes them, the tracking of what changed.

Written from [MS-VHDX] and from what is known of Hyper-V, by nobody who has
read how vmkeep reads such files: what both agree on is then more than one
mistake made twice. The room knows nothing of VMs, jobs or the wire; a caller
tells it when a checkpoint happens and what the host calls a file.

Nouns: a *disk* (``VirtualDisk``) is a base file and the differencing *layers*
above it; the *leaf* is the layer its guest writes. A *merge* is the slow end
of a checkpoint. The *tracker* (``ChangeTracker``) is RCT of one disk.
"""

from vmkeep_lab.disks.area import Area
from vmkeep_lab.disks.content import fill, load_image
from vmkeep_lab.disks.disk import VirtualDisk
from vmkeep_lab.disks.errors import (
    BadRequest,
    ChainCycle,
    DiskCorrupt,
    DiskError,
    LayerInUse,
    NoSuchLayer,
    NotAVirtualDisk,
    ParentChanged,
    ParentNotFound,
    TrackingIdInvalid,
    TrackingLost,
    TrackingOff,
)
from vmkeep_lab.disks.guest import GuestAction, GuestWriter
from vmkeep_lab.disks.images import Image, image, image_names
from vmkeep_lab.disks.merge import Merge
from vmkeep_lab.disks.tracker import ChangeTracker

__all__ = [
    "Area",
    "BadRequest",
    "ChainCycle",
    "ChangeTracker",
    "DiskCorrupt",
    "DiskError",
    "GuestAction",
    "GuestWriter",
    "Image",
    "LayerInUse",
    "Merge",
    "NoSuchLayer",
    "NotAVirtualDisk",
    "ParentChanged",
    "ParentNotFound",
    "TrackingIdInvalid",
    "TrackingLost",
    "TrackingOff",
    "VirtualDisk",
    "fill",
    "image",
    "image_names",
    "load_image",
]
