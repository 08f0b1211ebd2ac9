"""How many items it takes to see a difference. No scipy: `apportion plan` starts at once."""

from __future__ import annotations

import math
from statistics import NormalDist

LEVEL, POWER = 0.95, 0.8
WORST_SHARE_SD = 0.5
"""Standard deviation of one item that passes or fails, at a share of one half; at other shares it is less."""


def mean_stderr(item_sd: float, n_items: int) -> float:
    """Return the standard error to expect of a mean over items, in their unit.

    Raises:
        ValueError: There are no items.
    """
    if n_items < 1:
        raise ValueError(f"{n_items} items; a mean needs at least one")
    return item_sd / math.sqrt(n_items)


def items_needed(
    difference: float, item_sd: float, correlation: float = 0.0, power: float = POWER
) -> int:
    """Return how many items show a true difference between two models on the same items.

    n = 2 (1 - r) sd^2 (z_0.975 + z_power)^2 / difference^2, rounded up. With r = 0 the two models' answers to an item
    are unrelated, which is the worst that is likely. The spread between trainings comes on top.
    Source: Cohen 1988, Statistical Power Analysis, 2nd edition, section 2.4, with the normal in place of t.

    Args:
        difference: The smallest that must be seen, in the items' unit.
        item_sd: Standard deviation between items of one model.
        correlation: Between the two models' values of an item.
        power: Probability of seeing it.

    Raises:
        ValueError: The difference is not positive, or the correlation not in [-1, 1).
    """
    if not difference > 0 or not -1 <= correlation < 1:
        raise ValueError(
            f"needs a difference above 0 and a correlation in [-1, 1), got {difference:g} and {correlation:g}"
        )
    normal = NormalDist()
    reach = normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(power)
    n_items = 2 * (1 - correlation) * (item_sd * reach / difference) ** 2
    return max(2, math.ceil(n_items - 1e-9))


def detectable_difference(n_items: int, item_sd: float, correlation: float = 0.0) -> float:
    """Return the smallest true difference that `n_items` show with power 0.8: the inverse of `items_needed`.

    Raises:
        ValueError: There are no items.
    """
    normal = NormalDist()
    reach = normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)
    return reach * math.sqrt(2 * (1 - correlation)) * mean_stderr(item_sd, n_items)
