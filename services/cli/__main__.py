"""python -m services.cli: talk to a running Quorum, watch it, load it, check it."""

import sys

from services.cli.app import main
from shared.output import quietly

if __name__ == "__main__":
    sys.exit(quietly(main))
