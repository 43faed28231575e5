"""What the autoscaler counts, by compose service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

REPLICAS = Gauge("autoscaler_replicas", "Containers that run and are not to go", ["service"])
WANTED = Gauge("autoscaler_wanted_replicas", "Containers that should run", ["service"])
UTILISATION = Gauge("autoscaler_utilisation", "Mean of the replicas that tell it", ["service"])
SILENT = Gauge("autoscaler_silent_replicas", "Replicas that told no utilisation", ["service"])
BACKLOG = Gauge("autoscaler_backlog_messages", "Messages that nobody was handed yet", ["service"])
QUEUE_AGE = Gauge("autoscaler_queue_age_seconds", "Age of the oldest of them", ["service"])
CHANGES = Counter("autoscaler_changes", "Decisions to change, dry run included", ["service", "to"])
FAILURES = Counter("autoscaler_failures", "Looks and changes that failed", ["service"])
