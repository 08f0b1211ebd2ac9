"""Trials for others to use: models, recipes, and the files of other training tools. One target per file."""
