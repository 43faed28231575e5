"""python -m deploy.autoscaler: scales a docker compose project, on the bus of BUS_URL."""

import sys

from deploy.autoscaler.service import PART
from shared.runner import main

if __name__ == "__main__":
    sys.exit(main([PART]))
