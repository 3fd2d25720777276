"""What schemathesis needs to know besides the description."""

import os
from pathlib import Path

import schemathesis
from hypothesis import strategies

# One picture does for each file of a page: an RGBA PNG.
PICTURE = Path(os.environ["GATEWAY_PICTURE"]).read_bytes()
for kind in ("image/png", "image/jpeg"):
    schemathesis.openapi.media_type(kind, strategies.just(PICTURE))
