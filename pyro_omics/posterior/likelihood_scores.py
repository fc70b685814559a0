"""ELBO of each row, in total or by site, and its importance-weighted log-likelihood."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from pyro_omics.inference.draws import drawing
from pyro_omics.posterior.rows import PosteriorRows, check_draws


class LikelihoodScores(PosteriorRows):
    """ELBO and log-likelihood of each row, in nats, as methods of a `Posterior`."""

    def elbo(self, split: str = "all", num_samples: int = 1, seed: int = 0) -> pd.Series:
        """ELBO of each row, in nats: its local terms plus the global terms divided by n_obs.

        Parameters
        ----------
        split
            which rows: "all", "training" or "validation".
        num_samples
            number of posterior draws, over which each value is averaged.
        seed
            seed of the draws.

        Returns
        -------
        (n,) Series. Over the validation rows, its mean estimates the logged ``val_elbo``.
        """
        weights = self._log_weights(split, num_samples, seed, "elbo", with_global=True)
        return pd.Series(weights.mean(0), index=self._names(split), name="elbo")

    def elbo_parts(self, split: str = "all", num_samples: int = 1, seed: int = 0) -> pd.DataFrame:
        """Contribution of each site to each row's `elbo`, in nats.

        An observed site contributes its log-likelihood, a latent site log p - log q (an estimate of minus its KL), and
        a global site log p - log q divided by n_obs. Arguments as in `elbo`.

        Returns
        -------
        (n, sites) DataFrame, whose columns sum to `elbo`.
        """
        check_draws("num_samples", num_samples)
        parts = []
        with drawing(self.svi, seed) as draws:
            for batch in self._batches(split, num_samples, "elbo_parts"):
                each = [draws.log_weights(batch, s, with_global=True) for s in range(num_samples)]
                parts.append({name: torch.stack([one[name] for one in each]).mean(0).cpu() for name in each[0]})
        columns = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        return pd.DataFrame(columns, index=self._names(split))

    def log_likelihood(self, split: str = "all", num_particles: int = 50, seed: int = 0) -> pd.Series:
        r"""Importance-weighted log-likelihood of each row, in nats.

        .. math:: \log \frac{1}{S} \sum_s \frac{p(x_n \mid z_s) \, p(z_s)}{q(z_s \mid x_n)}, \quad z_s \sim q

        a lower bound, in expectation, on log p(x_n) that rises with S. Global latents are drawn from the guide, once
        per particle; in a model with global latents, the value therefore estimates the log of the posterior predictive
        density.

        Parameters
        ----------
        split
            which rows: "all", "training" or "validation".
        num_particles
            S, the number of importance samples.
        seed
            seed of the draws.

        Returns
        -------
        (n,) Series.

        Source: Burda et al. 2016, equation 8.
        """
        weights = self._log_weights(split, num_particles, seed, "log_likelihood", with_global=False)
        return pd.Series(np.logaddexp.reduce(weights, 0) - np.log(len(weights)), index=self._names(split),
                         name="log_likelihood")  # fmt: skip

    def _log_weights(self, split: str, num: int, seed: int, what: str, with_global: bool) -> np.ndarray:
        check_draws("num_particles" if what == "log_likelihood" else "num_samples", num)
        with drawing(self.svi, seed) as draws:
            parts = [
                torch.stack([draws.log_weight(batch, s, with_global) for s in range(num)]).cpu()
                for batch in self._batches(split, num, what)
            ]
        return torch.cat(parts, 1).double().numpy()
