"""Gaussian process regression on few points, with priors on its hyperparameters. numpy and scipy only.

scikit-learn's has no priors, and with the five to thirty points that a study begins with the likelihood alone is flat;
Optuna's is private and needs torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize

Array = NDArray[np.float64]

_PRIOR_SCALE = 1.0
"""Standard deviation of the log-normal prior on each length scale."""
_PRIOR_NOISE, _PRIOR_NOISE_SCALE = 0.1, 1.5
"""Noise variance as a share of the signal's: median and standard deviation of its log-normal prior."""
_SIGNAL_PRIOR = 2.0
"""Observations' worth of the prior that outputs have variance 1."""
_JITTER = 1e-6


class GaussianProcess:
    """One output, Matern-5/2 kernel with a length scale per input, constant mean.

    Source: Rasmussen and Williams 2006, eq. 2.25, 2.26 and 5.9. Hyperparameters are at their posterior mode; the
    signal's variance is integrated to its conditional mode.
    """

    def __init__(self, n_inputs: int, length_scale: float = 2.0) -> None:
        """Start at the prior.

        Args:
            n_inputs: Columns of the inputs.
            length_scale: Prior median, in units of the inputs.
        """
        self._prior = np.r_[np.full(n_inputs, np.log(length_scale)), np.log(_PRIOR_NOISE)]
        self._prior_scale = np.r_[np.full(n_inputs, _PRIOR_SCALE), _PRIOR_NOISE_SCALE]
        self.log_parameters: Array = self._prior.copy()
        """Log length scales, shape (n_inputs,), and log noise share."""
        self._inputs = np.empty((0, n_inputs))
        self._inverse = np.empty((0, 0))
        self._weights = np.empty(0)
        self._mean = 0.0
        self._variance = 1.0

    def tune(self, inputs_ND: Array, outputs_N: Array, noise_N: Array | None = None) -> None:
        """Move the hyperparameters to their posterior mode, starting from the prior.

        Args:
            inputs_ND: One row per observation.
            outputs_N: In units in which they vary by about 1.
            noise_N: Variance of each output that is known beside the common one; default: none. It is taken as a share
                of the signal's variance, as if that were 1.
        """
        squares_NND = (inputs_ND[:, None, :] - inputs_ND[None, :, :]) ** 2
        n_inputs = inputs_ND.shape[1]
        found = minimize(
            self._negative_log_posterior,
            self._prior,
            args=(squares_NND, outputs_N - _shrunk_mean(outputs_N), noise_N),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-3.0, 3.5)] * n_inputs + [(-6.0, 1.0)],
            options={"maxiter": 30},
        )
        self.log_parameters = np.asarray(found.x)

    def condition(self, inputs_ND: Array, outputs_N: Array, noise_N: Array | None = None) -> None:
        """Take observations, with the hyperparameters as they are; see `tune`."""
        self._mean = _shrunk_mean(outputs_N)
        self._inputs = inputs_ND
        residuals_N = outputs_N - self._mean
        kernel_NN = self._kernel(inputs_ND, inputs_ND)
        kernel_NN[np.diag_indices_from(kernel_NN)] += np.exp(self.log_parameters[-1]) + _JITTER
        if noise_N is not None:
            kernel_NN[np.diag_indices_from(kernel_NN)] += noise_N
        lower_NN = cholesky(kernel_NN, lower=True, check_finite=False)
        self._inverse = cho_solve((lower_NN, True), np.eye(len(inputs_ND)), check_finite=False)
        self._weights = self._inverse @ residuals_N
        energy = float(residuals_N @ self._weights)
        self._variance = (energy + _SIGNAL_PRIOR) / (len(outputs_N) + _SIGNAL_PRIOR)

    def predict(self, inputs_MD: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the noise-free output, each of shape (M,)."""
        kernel_MN = self._kernel(inputs_MD, self._inputs)
        explained_M = np.einsum("mn,mn->m", kernel_MN @ self._inverse, kernel_MN)
        deviation_M = np.sqrt(self._variance * np.maximum(1.0 - explained_M, 1e-6))
        return self._mean + kernel_MN @ self._weights, deviation_M

    def _kernel(self, left_MD: Array, right_ND: Array) -> Array:
        scales_D = np.exp(self.log_parameters[:-1])
        left_MD, right_ND = left_MD / scales_D, right_ND / scales_D
        squares_MN = (
            (left_MD**2).sum(axis=1)[:, None]
            + (right_ND**2).sum(axis=1)[None, :]
            - 2.0 * left_MD @ right_ND.T
        )
        root_MN = np.sqrt(5.0 * np.maximum(squares_MN, 0.0))
        return np.asarray((1.0 + root_MN + root_MN**2 / 3.0) * np.exp(-root_MN))

    def _negative_log_posterior(
        self,
        log_parameters: Array,
        squares_NND: Array,
        residuals_N: Array,
        noise_N: Array | None = None,
    ) -> tuple[float, Array]:
        n = len(residuals_N)
        weights_D, noise = np.exp(-2.0 * log_parameters[:-1]), np.exp(log_parameters[-1])
        root_NN = np.sqrt(5.0 * (squares_NND @ weights_D))
        decay_NN = np.exp(-root_NN)
        kernel_NN = (1.0 + root_NN + root_NN**2 / 3.0) * decay_NN
        kernel_NN[np.diag_indices(n)] += noise + _JITTER
        if noise_N is not None:
            kernel_NN[np.diag_indices(n)] += noise_N
        lower_NN = cholesky(kernel_NN, lower=True, check_finite=False)
        inverse_NN = cho_solve((lower_NN, True), np.eye(n), check_finite=False)
        alpha_N = inverse_NN @ residuals_N
        variance = (residuals_N @ alpha_N + _SIGNAL_PRIOR) / (n + _SIGNAL_PRIOR)
        away = (log_parameters - self._prior) / self._prior_scale
        value = (
            0.5 * (n + _SIGNAL_PRIOR) * np.log(variance)
            + np.log(np.diag(lower_NN)).sum()
            + 0.5 * (away**2).sum()
        )
        pull_NN = inverse_NN - np.outer(alpha_N, alpha_N) / variance
        # The kernel's derivative by a log length scale is 5/3 (1 + r) exp(-r) times the scaled squared distance.
        slope_NN = pull_NN * (5.0 / 3.0) * (1.0 + root_NN) * decay_NN
        gradient = np.r_[
            0.5 * np.einsum("ij,ijd->d", slope_NN, squares_NND) * weights_D,
            0.5 * np.trace(pull_NN) * noise,
        ]
        return float(value), gradient + away / self._prior_scale


def _shrunk_mean(outputs_N: Array) -> float:
    """Return the mean, pulled towards 0 as if one more output had been 0."""
    return float(outputs_N.sum() / (len(outputs_N) + 1))
