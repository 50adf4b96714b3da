"""Which calls of a runtime launch device work."""

from __future__ import annotations

import re

LAUNCH = re.compile(
    r"(?:cuda|cu|hip|xpu|ze)\w*(?:Launch|Memcpy)(?!.*(?:Attribute|Params|HostFunc|GetHandle))"
)
"""Runtime and driver calls that leave a device record. Memsets of no bytes leave none."""
