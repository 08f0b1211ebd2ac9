"""A cost-aware sampler: learns what a stage does to a model, looks ahead, and asks what a second of compute buys."""

from search.sampling.stagewise.sampler import StagewiseSampler

__all__ = ["StagewiseSampler"]
