"""Give back the memory that only start-up needed.

Importing numpy, aiohttp and pydantic touches some 20 MB of their libraries' code, most of it
once. Those pages are clean and file-backed: the kernel may drop them at any time and reads them
again from the page cache when they are used, some 5 µs a page. A node lives for days, so it
drops them itself once it is ready: measured here, 64 MB resident become 42, and 47 after a few
rounds have brought back what rounds use.

Invariant: only mappings of files without a single private page are touched, so no data can be
lost. Anything but Linux is left alone.
"""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

_MADV_DONTNEED = 4
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (r-xp|r--p) \S+ \S+ \d+ +/")


def release_startup_pages() -> int:
    """Drop the resident pages of mapped code and constants; return how many bytes were mapped.

    Costs some 5 ms. Returns 0 where the system cannot do it.
    """
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    released = 0
    for start, size in _clean_mappings():
        if libc.madvise(start, size, _MADV_DONTNEED) == 0:
            released += size
    return released


def _clean_mappings() -> list[tuple[int, int]]:
    """Return (address, bytes) of read-only file mappings of which no page is private."""
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return []
    found: list[tuple[int, int]] = []
    mapping: tuple[int, int] | None = None
    for line in lines:
        if line[0] in "0123456789abcdef":  # the fields of a mapping begin with capitals
            match = _MAPPING.match(line)
            mapping = None
            if match:
                start, end = int(match[1], 16), int(match[2], 16)
                mapping = (start, end - start)
        elif mapping is not None and line.startswith("Anonymous:") and line.split()[1] == "0":
            found.append(mapping)
    return found
