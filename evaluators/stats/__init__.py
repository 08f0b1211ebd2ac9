"""Statistics of scores: numpy in, floats out. Here is what evaluators need; the rest stands in modules of its own."""

from evaluators.stats.items import Estimate as Estimate
from evaluators.stats.items import jackknife_ratio as jackknife_ratio
from evaluators.stats.items import mean_estimate as mean_estimate
from evaluators.stats.items import paired_difference as paired_difference
from evaluators.stats.items import ratio_estimate as ratio_estimate
from evaluators.stats.items import share_estimate as share_estimate
