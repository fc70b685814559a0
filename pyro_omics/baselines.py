"""Classical scores of DNA-encoded library selections: closed-form functions of the counts, with no model to fit.

Each score takes an AnnData of counts (compounds x selections), whose ``var["condition"]`` says what a selection was
against: "target", "control" or "pre-selection". Replicates of a condition are summed. `aggregate` sums compounds to
mono- or disynthons, which every score accepts in place of compounds.

The rows must be the whole library, since the expected count of a compound follows from the number of rows: complete a
table that leaves out compounds with no reads.

All scores assume Poisson counts. Unique molecules (UMIs) are nearly Poisson. Raw reads, which PCR multiplies, vary
more, so that intervals are too narrow and scores too large.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import special, stats

from pyro_omics.data.dna_encoded.synthons import aggregate, n_compounds, pooled_counts, positive_values, synthons

__all__ = ["aggregate", "enrichment_lower_bound", "enrichment_ratio", "normalized_z_score", "poly_o"]


def normalized_z_score(
    adata: AnnData, condition: str = "target", expected: np.ndarray | pd.Series | None = None
) -> pd.Series:
    """Normalised z-score of each row's share of the counts.

    z / sqrt(N) = (p - p0) / sqrt(p0 (1 - p0)), with p = k / N the row's share of the N counts of the condition, and p0
    its expected share: 1 / n for each of n compounds, or proportional to ``obs["n_compounds"]`` for the rows of
    `aggregate`. z is the z-score of a binomial count. Division by sqrt(N) makes scores comparable between selections of
    different sequencing depth, and between n-synthons of one kind.

    Parameters
    ----------
    adata
        counts (n, selections) in X.
    condition
        condition of the selections, whose counts are summed.
    expected
        (n,) positive abundances, to which p0 is proportional, such as the pre-selection's counts plus one. A Series
        is matched to ``obs_names`` by name. None: a uniform library.

    Returns
    -------
    Series (n,) by obs_names. No unit; 0 where a row has its expected share.

    Raises
    ------
    ValueError
        Where X does not hold counts, no selection has that condition, or these selections have no counts; for
        abundances that are not positive, or of another length; for fewer than two rows.

    Source: Faver et al. 2019, ACS Combinatorial Science 21, 75 (doi 10.1021/acscombsci.8b00116), with a uniform p0;
    ``expected`` gives the same binomial with another p0.
    """
    if adata.n_obs < 2:
        raise ValueError(f"adata must have 2 rows or more; got {adata.n_obs}: pass the whole library")
    counts = pooled_counts(adata, "condition", condition)
    abundance = n_compounds(adata) if expected is None else _abundance(adata, expected)
    p0 = abundance / abundance.sum()
    z = (counts / counts.sum() - p0) / np.sqrt(p0 * (1.0 - p0))
    return pd.Series(z, index=adata.obs_names, name="normalized_z_score")


def enrichment_ratio(
    adata: AnnData, target: str = "target", control: str = "control", confidence: float = 0.95
) -> pd.DataFrame:
    """Each row's rate in the target selections over its rate in the control selections, with a confidence interval.

    ratio = (k1 / N1) / (k2 / N2), for k1 of the N1 counts with the target and k2 of the N2 counts without. The interval
    holds each ratio R that the variance-stabilised test does not reject: with theta = R N1 / N2, the ratio of the two
    expected counts,

        |W(theta)| <= z,  W(theta) = 2 (sqrt(k1 + 3/8) - sqrt(theta (k2 + 3/8))) / sqrt(1 + theta),

    and z the normal quantile at (1 + confidence) / 2. W = +z and W = -z are the two roots of one quadratic in
    sqrt(theta): a = k1 + 3/8, b = k2 + 3/8, q = z^2 / 4,

        (b - q) theta - 2 sqrt(a b) sqrt(theta) + (a - q) = 0.

    W falls from 2 sqrt(a) towards -2 sqrt(b). So the lower bound is 0 where a <= q, and the upper one is infinite where
    b <= q: there the quadratic's other root is no solution of W = -z.

    Parameters
    ----------
    adata
        counts (n, selections) in X.
    target, control
        conditions; the counts of the selections of each are summed. "pre-selection" can serve as the control.
    confidence
        coverage of the two-sided interval, between 0 and 1. Each bound alone is missed with probability
        (1 - confidence) / 2.

    Returns
    -------
    DataFrame (n, 3) by obs_names: "ratio", "lower", "upper". No unit; 1 is no enrichment. Where the control has no
    count, ratio and upper are infinite, and ratio is NaN if the target has none either. lower is 0 where the target has
    no count. lower is always finite, rises with the target's count and falls with the control's: rank by it.

    Raises
    ------
    ValueError
        Where X does not hold counts, no selection has one of the conditions, or its selections have no counts; for a
        confidence that is not between 0 and 1.

    Source: the interval inverts the test with the square-root transformation of Gu, Ng, Tang and Schucany 2008,
    Biometrical Journal 50, 283 (doi 10.1002/bimj.200710403; W5), which Lim et al. 2022 (arXiv:2108.12471) use for
    libraries, with z = 2. Kuai, O'Keeffe and Arico-Muendel 2018, SLAS Discovery 23, 405, show that counts of selections
    are Poisson, and should be normalised and given confidence intervals; the interval that others report from them,
    (sqrt(k + 1) -+ 1)^2 over the mean count, is for a single selection. The limits at counts of 0 are our choice.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95; got {confidence!r}")
    k1, k2 = pooled_counts(adata, "target", target), pooled_counts(adata, "control", control)
    per_rate = k2.sum() / k1.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = k1 / k2
    lower, upper = _ratio_interval(k1, k2, stats.norm.ppf((1.0 + confidence) / 2.0))
    columns = {"ratio": ratio * per_rate, "lower": lower * per_rate, "upper": upper * per_rate}
    return pd.DataFrame(columns, index=adata.obs_names)


def enrichment_lower_bound(
    adata: AnnData, target: str = "target", control: str = "control", confidence: float = 0.95
) -> pd.Series:
    """The lower bound of `enrichment_ratio`, with the same arguments and errors: Series (n,) by obs_names."""
    return enrichment_ratio(adata, target, control, confidence)["lower"].rename("enrichment_lower_bound")


def poly_o(adata: AnnData, condition: str = "target", synthon_keys: str | Sequence[str] | None = None) -> pd.Series:
    """PolyO-like score: -log10 of the probability of counts as high as these in a library without binders.

    score = -log10 P(X >= k), X ~ Poisson(d), for a row with k counts. d is the mean count of the rows (proportional to
    ``obs["n_compounds"]`` for the rows of `aggregate`).

    With ``synthon_keys``, the score of a synthon is the sum of the scores of the compounds that share those building
    blocks. Single outstanding compounds dominate it, and it grows with the number of compounds: compare synthons of the
    same size. ``poly_o(aggregate(adata, synthon_keys))`` scores the synthon's summed count instead: many small excesses
    then count too, and synthons of any size can be compared.

    Probabilities below the range of floats are computed in logarithms as P(X >= k) = P(X = k) M(1, k + 1, d), with
    Kummer's function M, so that high counts keep their order.

    Parameters
    ----------
    adata
        counts (n, selections) in X.
    condition
        condition of the selections, whose counts are summed.
    synthon_keys
        columns of obs with building blocks: one for monosynthons, two for disynthons. None: a score for each row.

    Returns
    -------
    Series (n,) by obs_names, or by synthon as in `aggregate`. Powers of ten, >= 0; 0 for a count of 0.

    Raises
    ------
    ValueError
        Where X does not hold counts, no selection has that condition, or these selections have no counts; for keys that
        are not columns of obs, or lack values.

    Source: PolyO of Chen et al. 2022, Nucleic Acids Research 50, e67 (doi 10.1093/nar/gkac173), as defined by open
    programs that cite it: -log10 of the product, over the compounds of a feature, of the Poisson probabilities of their
    counts about the mean count, divided by a baseline that is one number for a library and a kind of feature. Two
    changes are ours. The tail P(X >= k) replaces P(X = k), which would give depleted compounds the scores of enriched
    ones. The baseline is left out: ranks within one kind of feature do not depend on it, but values are not those of
    the paper, nor comparable between kinds.
    """
    counts, weight = pooled_counts(adata, "condition", condition), n_compounds(adata)
    score = _minus_log10_tail(counts, counts.sum() * weight / weight.sum())
    if synthon_keys is None:
        return pd.Series(score, index=adata.obs_names, name="poly_o")
    code, table = synthons(adata, synthon_keys)
    return pd.Series(np.bincount(code, weights=score), index=table.index, name="poly_o")


def _ratio_interval(k1: np.ndarray, k2: np.ndarray, z: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (n,), (n,) of the ratio of two Poisson means, from one count of each; see `enrichment_ratio`."""
    a, b, q = k1 + 3.0 / 8.0, k2 + 3.0 / 8.0, z**2 / 4.0
    centre = np.sqrt(a * b)
    half = np.sqrt(q * np.clip(a + b - q, 0.0, None))
    # The lower root is (a - q) / (centre + half), not (centre - half) / (b - q), which is 0 / 0 where b = q.
    lower = np.where((a > q) & (k1 > 0), (a - q) / (centre + half), 0.0)
    finite = (b > q) & (k2 > 0)
    upper = np.full_like(centre, np.inf)
    upper[finite] = (centre[finite] + half[finite]) / (b[finite] - q)
    return lower**2, upper**2


def _minus_log10_tail(counts: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """-log10 P(X >= count) for Poisson variables X of these means (> 0), finite for every count."""
    tail = special.gammainc(counts, mean)  # the tail is the regularised lower gamma function
    deep = tail < 1e-290  # closer to the smallest float, digits are lost
    log_tail = np.log(np.where(deep, 1.0, tail))
    k, d = counts[deep], mean[deep]
    log_tail[deep] = stats.poisson.logpmf(k, d) + np.log(special.hyp1f1(1.0, k + 1.0, d))
    return np.abs(log_tail) / np.log(10.0)


def _abundance(adata: AnnData, expected: np.ndarray | pd.Series) -> np.ndarray:
    if isinstance(expected, pd.Series):
        expected = expected.reindex(adata.obs_names)
    abundance = np.asarray(expected, dtype=np.float64)
    if abundance.shape != (adata.n_obs,):
        raise ValueError(
            f"expected must be {adata.n_obs} abundances, one for each row; got an array of shape {abundance.shape}"
        )
    return positive_values(abundance, "expected")
