"""python -m services.cli: talk to a running Quorum, watch it, load it, check it."""

import sys

from shared.output import quietly

if __name__ == "__main__":
    try:
        from services.cli.app import main
    except ModuleNotFoundError as error:
        sys.exit(f"quorum: {error.name} is missing: pip install -c constraints.txt '.[cli]'")
    sys.exit(quietly(main))
