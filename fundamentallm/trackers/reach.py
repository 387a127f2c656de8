"""Whether anything answers at an address at all: asked once, W&B's client would try for 20 s."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request


def unreachable(url: str, seconds: float) -> str:
    """Why nothing answers at `url` within so many seconds; "" if something does."""
    try:
        urllib.request.urlopen(url, timeout=seconds).close()
    except urllib.error.HTTPError:
        return ""  # an answer
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        # The client brings certificates of its own, so what Python's think says nothing.
        return "" if isinstance(reason, ssl.SSLError) else f"{url}: {reason}"
    return ""
