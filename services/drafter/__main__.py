"""python -m services.drafter: the draft models of DRAFTER_MODELS, on the bus of BUS_URL."""

import sys

from services.drafter.service import PART
from shared.runner import main

if __name__ == "__main__":
    sys.exit(main([PART]))
