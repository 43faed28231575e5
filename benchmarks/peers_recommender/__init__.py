"""Ways of looking up and scoring, Quorum's among them, each a worker process (worker.py)."""
