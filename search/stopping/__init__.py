"""Multi-objective early stopping at stage boundaries, with a stated error rate. No Ray, no Optuna, no torch."""
