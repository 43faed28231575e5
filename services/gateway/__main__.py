"""python -m services.gateway: the REST gateway, on the bus of BUS_URL."""

import sys

from services.gateway.service import PART
from shared.runner import main

if __name__ == "__main__":
    sys.exit(main([PART]))
