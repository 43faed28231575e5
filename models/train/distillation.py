def train_drafters(*a): raise SystemExit
