"""python -m services.verifier: one verifier, on the bus of BUS_URL."""

import sys

from services.verifier.service import PART
from shared.runner import main

if __name__ == "__main__":
    sys.exit(main([PART]))
