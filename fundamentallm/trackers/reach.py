"""Check that a server answers, in one request; W&B's client would retry for 20 s."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request


def unreachable(url: str, seconds: float) -> str:
    """Return why nothing answers at `url` within `seconds`; "" if something does."""
    try:
        urllib.request.urlopen(url, timeout=seconds).close()
    except urllib.error.HTTPError:
        return ""  # an answer
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        # The client has its own certificates, so a failure of Python's proves nothing.
        return "" if isinstance(reason, ssl.SSLError) else f"{url}: {reason}"
    return ""
