"""Settings of the C library's memory allocator.

glibc gives a large block back to the kernel as soon as it is freed, and the next one comes as
fresh pages, each of which costs a page fault: on two CPU cores that was half of MobileSAM's encoder
and three fifths of its decoder. The inference path keeps and cuts up its buffers instead; these
functions help code that does not.
"""

from __future__ import annotations

import ctypes
import platform

# From <malloc.h>; part of glibc's ABI.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_BYTES = 2**31 - 1  # mallopt takes an int
# Half of glibc's HEAP_MAX_SIZE on 64-bit systems: the limit of its dynamic threshold and, in old
# versions, of a threshold that is set.
_DYNAMIC_LIMIT_BYTES = 32 * 2**20
# The block's header and the rounding to pages must fit below that.
_LEARNT_BLOCK_BYTES = _DYNAMIC_LIMIT_BYTES - 64 * 2**10


def keep_buffers() -> bool:
    """Tells glibc to keep freed memory for the next allocation; says whether it took effect.

    Optional, process-wide, and not called by this package itself. Blocks of up to 2 GiB (32 MiB
    where an old glibc allows no more) then come from the heap, which is not given back until 2 GiB
    are free at its end: the resident memory stays near its peak until the process ends.
    """
    library = _glibc()
    if library is None:
        return False
    limits = (_LARGEST_BYTES, _DYNAMIC_LIMIT_BYTES)
    mapped = any(library.mallopt(_M_MMAP_THRESHOLD, limit) for limit in limits)
    return bool(library.mallopt(_M_TRIM_THRESHOLD, _LARGEST_BYTES)) and mapped


def learn_large_blocks() -> bool:
    """Allocates and frees a block of nearly 32 MiB, so that glibc raises its dynamic thresholds.

    Changes no setting, and touches no page of the block: glibc itself then serves blocks up to
    that size from the heap, unless the thresholds were set explicitly. False without glibc.
    """
    library = _glibc()
    if library is None:
        return False
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.free(library.malloc(_LEARNT_BLOCK_BYTES))
    return True


def _glibc() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
