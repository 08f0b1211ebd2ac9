"""What it costs to measure how a stage moved a matrix, as ratios within one run: factors, products, plain SVD.

python tests/benchmarks/bench_moved.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from search.stages.adapters import Factors
from search.stages.weight_change import directions, product

N_OUT, N_IN, RANK = 1536, 576, 8
"""A gate projection of SmolLM2-135M, and an adapter of its size."""
N_REPEATS = 20


def cpu_seconds(action: Callable[[], object]) -> float:
    """Return the fewest CPU seconds of some calls: what other processes do slows calls, and never speeds them up."""
    best = float("inf")
    for _ in range(N_REPEATS):
        started = time.process_time()
        action()
        best = min(best, time.process_time() - started)
    return best


def main() -> None:
    """Print one ratio a line."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    factors = Factors(torch.randn(RANK, N_IN), torch.randn(N_OUT, RANK), 2.0)
    dense = torch.randn(N_OUT, N_IN)
    multiplied = factors.scale * factors.b @ factors.a
    plain = cpu_seconds(lambda: torch.linalg.svd(dense, full_matrices=False))
    print(f"matrix {N_OUT} x {N_IN}, plain SVD = 1")
    for name, action in (
        ("full change, spectrum and directions", lambda: directions(dense)),
        ("adapter as factors, the same", lambda: directions(factors)),
        ("adapter multiplied out, the same", lambda: directions(multiplied)),
        ("product of two full changes", lambda: product(dense, dense)),
        ("product of a full change and factors", lambda: product(dense, factors)),
        ("product of factors", lambda: product(factors, factors)),
    ):
        print(f"{name:40} {cpu_seconds(action) / plain:.4f}")


if __name__ == "__main__":
    main()
