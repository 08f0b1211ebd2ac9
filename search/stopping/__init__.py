"""Multi-objective early stopping at boundaries and rungs, with a stated error rate. No Ray, no Optuna, no torch."""
