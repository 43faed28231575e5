"""What at least two services need."""

import os

# From 1.29 on, onnxruntime's Linux wheels report names and hashes of models to their maker unless
# told not to, before they are loaded. Nothing of a user's leaves their machine by our doing.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
