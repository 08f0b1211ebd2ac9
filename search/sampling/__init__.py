"""Optuna samplers, ask and tell, budget and resume."""
