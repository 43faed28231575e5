"""python -m services.recommender: the model of RECOMMENDER_MODEL, on the bus of BUS_URL."""

import sys

from services.recommender.service import PART
from shared.runner import main

if __name__ == "__main__":
    sys.exit(main([PART]))
