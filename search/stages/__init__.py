"""Stages: a model goes in, a trained model comes out. The only part of `search` that knows torch."""
