"""Our own evaluators, one a file, each opening with a card: claim, data, values, version, limits."""
