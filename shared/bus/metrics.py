"""What a bus counts."""

from __future__ import annotations

from prometheus_client import Counter

REDELIVERIES = Counter("bus_redeliveries", "Messages taken over from a dead consumer", ["topic"])
DEAD_LETTERS = Counter("bus_dead_letters", "Messages put aside for good", ["topic"])
MALFORMED = Counter("bus_malformed_messages", "Bytes that were no message of ours")
INBOX_DROPPED = Counter("bus_inbox_dropped", "Inbox messages dropped since the inbox was full")
TOPIC_FULL = Counter("bus_topic_full", "Messages refused since the topic was full", ["topic"])
RETRIES = Counter("bus_retries", "Operations repeated since the server was out of reach")
GROUPS_RECREATED = Counter("bus_groups_recreated", "Groups that the server had forgotten")
