"""python -m shared.check: is the process on this host's monitor port ready?

What `--check` asks, without loading the service: a container's health check runs every few
seconds, and the imports of a service cost ten times what the question does.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_S = 3.0


def check(host: str, port: int) -> int:
    """0 when the process behind the monitor port is ready, else 1; prints what it answered."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        print(f"not ready: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if answer.status != http.client.OK:
        print(f"not ready: {text}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(
        check(
            os.environ.get("QUORUM_MONITOR_HOST", "127.0.0.1"),
            int(os.environ["QUORUM_MONITOR_PORT"]),
        )
    )
