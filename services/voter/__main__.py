"""python -m services.voter: one voter, on the bus of BUS_URL."""

import sys

from services.voter.service import PART
from shared.runner import main

if __name__ == "__main__":
    sys.exit(main([PART]))
