"""Seeds of random streams: one for each purpose, none of which follows from another."""

from __future__ import annotations

import hashlib


def derived_seed(*parts: object) -> int:
    """32 bits of a hash of ``parts``: torch's generator heeds no more of a seed than that."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big")
