"""Classical scores of DNA-encoded libraries: against scipy, closed forms and numbers worked out by hand."""

import itertools

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from scipy import optimize, stats

from pyro_omics.baselines import (
    aggregate,
    enrichment_lower_bound,
    enrichment_ratio,
    normalized_z_score,
    poly_o,
)

SCORES = [normalized_z_score, enrichment_ratio, enrichment_lower_bound, poly_o]


def library(counts, conditions, stored=sp.csr_matrix, **obs):
    """An AnnData (compounds, selections) with these counts, float32 CSR, and columns of obs."""
    counts = np.asarray(counts, dtype=np.float32)
    index = [f"compound{i}" for i in range(len(counts))]
    var = pd.DataFrame({"condition": list(conditions)}, index=[f"selection{i}" for i in range(counts.shape[1])])
    return AnnData(stored(counts), obs=pd.DataFrame(obs, index=index), var=var)


def one(target):
    """A library with one target selection."""
    return library(np.asarray(target)[:, None], ["target"])


def pair(target, control):
    """A library with a target and a control selection."""
    return library(np.column_stack([target, control]), ["target", "control"])


def grid(sizes=(3, 4, 5), seed=0):
    """A full three-cycle library: two target selections, one control and one pre-selection."""
    rng = np.random.default_rng(seed)
    blocks = list(
        itertools.product(*[[f"{cycle}{i}" for i in range(n)] for cycle, n in zip("ABC", sizes, strict=True)])
    )
    columns = dict(zip("ABC", map(list, zip(*blocks, strict=True)), strict=True))
    counts = rng.poisson(rng.gamma(0.7, 4.0, (len(blocks), 4)))
    return library(counts, ["target", "control", "target", "pre-selection"], **columns)


def pooled(adata, condition):
    """Counts (n,) of a condition, in double precision."""
    return adata.X.toarray()[:, adata.var["condition"] == condition].sum(1, dtype=np.float64)


# Normalised z-score ---------------------------------------------------------------------------------------------------


def test_z_score_by_hand():
    # Two replicates pooled: 6, 2, 0, 2 of 10, each expected to be a quarter; sqrt(3/16) = sqrt(3)/4. The control is no
    # part of it.
    adata = library([[4, 2, 90], [0, 2, 7], [0, 0, 0], [1, 1, 3]], ["target", "target", "control"])
    score = normalized_z_score(adata)
    expected = np.array([0.35, -0.05, -0.25, -0.05]) * 4.0 / np.sqrt(3.0)
    np.testing.assert_allclose(score, expected, rtol=1e-12)
    assert list(score.index) == list(adata.obs_names)
    np.testing.assert_allclose(normalized_z_score(adata, condition="control").iloc[0], 0.65 * 4.0 / np.sqrt(3.0))


def test_z_score_is_the_binomial_one_and_does_not_depend_on_depth():
    counts = np.random.default_rng(0).poisson(3.0, 50)
    total = counts.sum()
    null = stats.binom(total, 1 / 50)
    np.testing.assert_allclose(normalized_z_score(one(counts)), (counts - null.mean()) / null.std() / np.sqrt(total))
    np.testing.assert_allclose(normalized_z_score(one(7 * counts)), normalized_z_score(one(counts)), rtol=1e-12)


def test_z_score_with_expected_abundances():
    adata = grid()
    before, counts = pooled(adata, "pre-selection") + 1, pooled(adata, "target")
    null = stats.binom(counts.sum(), before / before.sum())
    score = normalized_z_score(adata, expected=before)
    np.testing.assert_allclose(score, (counts - null.mean()) / null.std() / np.sqrt(counts.sum()))
    shuffled = pd.Series(before, index=adata.obs_names).sample(frac=1.0, random_state=0)
    pd.testing.assert_series_equal(normalized_z_score(adata, expected=shuffled), score)
    pd.testing.assert_series_equal(normalized_z_score(adata, expected=np.full(60, 3)), normalized_z_score(adata))


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (np.ones(3), r"expected must be 4 abundances.*\(3,\)"),
        (np.array([1.0, 0.0, 1.0, 1.0]), "expected must be positive for every row .*; got 1 value.*, such as 0"),
        (np.array([1.0, 1.0, np.nan, 1.0]), "expected must be positive .*; got 1 value.*nan"),
        (np.array([1.0, 1.0, np.inf, 1.0]), "expected must be positive .*; got 1 value.*inf"),
        (pd.Series(np.ones(4), index=list("abcd")), "expected must be positive .*; got 4 value.*matched by name"),
    ],
)
def test_z_score_refuses_bad_abundances(expected, message):
    with pytest.raises(ValueError, match=message):
        normalized_z_score(one([1, 2, 3, 4]), expected=expected)


def test_z_score_refuses_a_single_row():
    with pytest.raises(ValueError, match="2 rows or more; got 1: pass the whole library"):
        normalized_z_score(one([5]))


# Enrichment ratio -----------------------------------------------------------------------------------------------------


def statistic(theta, k1, k2):
    """The square-root test's statistic (Gu et al. 2008), written apart from the code under test."""
    return 2.0 * (np.sqrt(k1 + 0.375) - np.sqrt((k2 + 0.375) * theta)) / np.sqrt(1.0 + theta)


def with_rest(target, control, depth):
    """These counts, and a last row that brings both arms to the same depth, so that rates are in the counts' ratio."""
    return pair([*target, depth - np.sum(target)], [*control, depth - np.sum(control)])


def test_enrichment_by_hand():
    # z = 2, q = 1. Row 1, k = 10 and 1: a = 10.375, b = 1.375, sqrt(a b) = 3.776986, sqrt(q (a + b - q)) = 3.278719;
    # lower = (9.375 / 7.055705)^2 = 1.765475, upper = (7.055705 / 0.375)^2 = 354.0123. Row 2: 40 in 100 to 5 in 50.
    z2 = 2.0 * stats.norm.cdf(2.0) - 1.0
    table = enrichment_ratio(with_rest([10], [1], 1000), confidence=z2)
    assert list(table.columns) == ["ratio", "lower", "upper"]
    np.testing.assert_allclose(table.iloc[0], [10.0, 1.765475, 354.0123], rtol=1e-6)
    other = enrichment_ratio(pair([40, 60], [5, 45]), confidence=z2)
    np.testing.assert_allclose(other["ratio"], [4.0, 2.0 / 3.0], rtol=1e-12)
    # a = 40.375, b = 5.375: sqrt(a b) = 14.731450, half = sqrt(44.75) = 6.689544; theta is halved by the depths.
    np.testing.assert_allclose(other["lower"].iloc[0], (39.375 / 21.420994) ** 2 / 2.0, rtol=1e-6)
    np.testing.assert_allclose(other["upper"].iloc[0], (21.420994 / 4.375) ** 2 / 2.0, rtol=1e-6)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_interval_inverts_the_test(confidence):
    z = stats.norm.ppf((1 + confidence) / 2)
    k1, k2 = map(np.ravel, np.meshgrid([0, 1, 2, 5, 30, 1000, 20000], [0, 1, 2, 3, 8, 100, 5000]))
    table = enrichment_ratio(with_rest(k1, k2, 2**20), confidence=confidence).iloc[:-1]
    for a, b, lower, upper in zip(k1, k2, table["lower"], table["upper"], strict=True):
        rises = 2 * np.sqrt(a + 0.375) > z and a > 0  # the statistic starts above z, at a ratio of 0
        falls = 2 * np.sqrt(b + 0.375) > z and b > 0  # and ends below -z, at an infinite one
        root = optimize.brentq(lambda t, a=a, b=b: statistic(t, a, b) - z, 0, 1e9, rtol=1e-12) if rises else 0.0
        np.testing.assert_allclose(lower, root, rtol=1e-8, atol=1e-12)
        if falls:
            top = optimize.brentq(lambda t, a=a, b=b: statistic(t, a, b) + z, 0, 1e15, rtol=1e-12)
            np.testing.assert_allclose(upper, top, rtol=1e-8)
        else:
            assert upper == np.inf


def test_counts_of_zero():
    table = enrichment_ratio(with_rest([0, 7, 0, 7], [0, 0, 7, 7], 500)).iloc[:-1]
    np.testing.assert_array_equal(table["ratio"], [np.nan, np.inf, 0.0, 1.0])
    assert (table["upper"].iloc[:2] == np.inf).all() and np.isfinite(table["upper"].iloc[2:]).all()
    assert (table["lower"].iloc[[0, 2]] == 0).all() and (table["lower"].iloc[[1, 3]] > 0).all()
    # At a low confidence the quadratic would bound a ratio over a control count of 0, and one under a target's.
    low = enrichment_ratio(with_rest([0, 7, 0], [0, 0, 7], 500), confidence=0.3)
    assert (low["upper"].iloc[:2] == np.inf).all() and (low["lower"].iloc[[0, 2]] == 0).all()


@pytest.mark.parametrize("confidence", [0.3, 0.8, 0.95, 0.9999])
def test_lower_bound_is_finite_and_monotone(confidence):
    steps = np.concatenate([np.arange(30), [50, 100, 1000, 10_000, 100_000]])
    k1, k2 = np.meshgrid(steps, steps, indexing="ij")
    adata = with_rest(k1.ravel(), k2.ravel(), 2**23)
    lower = enrichment_lower_bound(adata, confidence=confidence)
    pd.testing.assert_series_equal(lower, enrichment_ratio(adata, confidence=confidence)["lower"], check_names=False)
    lower = lower.to_numpy()[:-1].reshape(k1.shape)
    assert np.isfinite(lower).all() and (lower >= 0).all()
    assert (np.diff(lower, axis=0) >= 0).all()
    assert (np.diff(lower, axis=1) <= 0).all()
    check_positive = lower[:, 0] > 0
    assert check_positive.sum() > 20
    assert (np.diff(lower[check_positive], axis=0) > 0).all() and (np.diff(lower[check_positive], axis=1) < 0).all()


@pytest.mark.parametrize(("mean1", "mean2"), [(5.0, 5.0), (20.0, 4.0), (4.0, 20.0), (2.0, 60.0), (300.0, 50.0)])
def test_interval_covers(mean1, mean2):
    n = 20_000
    rng = np.random.default_rng(int(mean1 * 100 + mean2))
    adata = pair(rng.poisson(mean1, n), rng.poisson(mean2, n))
    depths = adata.X.sum(axis=0, dtype=np.float64).A1
    truth = mean1 / depths[0] / (mean2 / depths[1])
    table = enrichment_ratio(adata)
    too_high, too_low = (table["lower"] > truth).mean(), (table["upper"] < truth).mean()
    # 0.05 in all, give or take the discreteness of small counts; the standard error of a share is at most 0.0016.
    assert too_high < 0.032 and too_low < 0.032
    assert 0.02 < too_high + too_low < 0.06


def test_a_wider_interval_for_more_confidence():
    adata = grid()
    narrow, wide = (enrichment_ratio(adata, confidence=level) for level in (0.8, 0.99))
    assert (wide["lower"] <= narrow["lower"]).all() and (wide["upper"] >= narrow["upper"]).all()
    pd.testing.assert_series_equal(narrow["ratio"], wide["ratio"])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_probability(confidence):
    with pytest.raises(ValueError, match=rf"confidence must be between 0 and 1.*; got {confidence}"):
        enrichment_ratio(pair([1], [1]), confidence=confidence)


def test_another_control():
    adata = grid()
    renamed = adata.copy()
    renamed.var["condition"] = ["other", "was control", "other", "control"]
    one_way = enrichment_ratio(adata, control="pre-selection")
    pd.testing.assert_frame_equal(enrichment_ratio(renamed, target="other"), one_way)
    assert not np.allclose(one_way["lower"], enrichment_ratio(adata)["lower"])


# PolyO ----------------------------------------------------------------------------------------------------------------


def test_poly_o_is_the_tail_of_a_poisson():
    adata = grid()
    counts = pooled(adata, "target")
    tail = stats.poisson.sf(counts - 1, counts.mean())
    np.testing.assert_allclose(poly_o(adata), -np.log10(tail), rtol=1e-8, atol=1e-12)
    # By hand: mean 1, P(X >= 2) = 1 - 2 / e.
    np.testing.assert_allclose(poly_o(one([2, 0])), [-np.log10(1 - 2 / np.e), 0.0], rtol=1e-12)


def test_poly_o_keeps_the_order_of_high_counts():
    high = np.array([140, 160, 165, 170, 180, 9_999, 10_000, 10_001, 20_000, 100_000])
    counts = np.concatenate([high, np.zeros(high.sum() - len(high), dtype=int)])  # mean 1
    score = poly_o(one(counts)).to_numpy()
    assert (score[len(high) :] == 0).all()
    # P(X = k) <= P(X >= k) <= P(X = k) / (1 - d / (k + 1)), the sum of a geometric series.
    least = stats.poisson.logpmf(high, 1.0)
    most = least - np.log1p(-1.0 / (high + 1))
    score = score[: len(high)]
    assert np.isfinite(score).all() and (np.diff(score) > 0).all()
    assert (-most / np.log(10) <= score * (1 + 1e-12)).all() and (score <= -least / np.log(10) * (1 + 1e-12)).all()
    np.testing.assert_allclose(score[7] - score[6], np.log10(10_001), rtol=1e-6)


def test_poly_o_does_not_jump_where_floats_end():
    # Mean 1000: the tail leaves the range of floats at about 2400 counts. Second differences of its log are smooth.
    run = np.arange(2000, 3000)
    rest = np.full(3000, 500)
    rest[0] += 1000 * (len(run) + len(rest)) - run.sum() - rest.sum()
    score = poly_o(one([*run, *rest])).to_numpy()[: len(run)]
    assert score[0] < 290 < 320 < score[-1]
    slope = np.diff(score)
    assert (slope > 0).all() and (np.diff(slope) > 0).all()


def test_poly_o_of_synthons_is_the_sum_over_their_compounds():
    adata = grid()
    single = poly_o(adata)
    by_block = single.groupby(adata.obs["B"].to_numpy()).sum()
    score = poly_o(adata, synthon_keys="B")
    assert list(score.index) == ["B0", "B1", "B2", "B3"]
    np.testing.assert_allclose(score, by_block, rtol=1e-12)
    pairs = poly_o(adata, synthon_keys=["C", "A"])
    assert len(pairs) == 15
    chosen = (adata.obs["C"] == "C4") & (adata.obs["A"] == "A1")
    np.testing.assert_allclose(pairs["C4-A1"], single[chosen].sum(), rtol=1e-12)
    trios = poly_o(adata, synthon_keys=["A", "B", "C"])
    np.testing.assert_allclose(trios, single, rtol=1e-12)  # the grid is in the order of its names


# Mono- and disynthons -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.asarray])
def test_aggregate_by_hand(stored):
    adata = library(
        [[1, 2], [3, 4], [5, 6], [7, 8]],
        ["target", "control"],
        stored,
        A=pd.Categorical(["A2", "A10", "A2", "A10"], categories=["A2", "unused", "A10"]),
        B=["B1", "B2", "B2", "B2"],
        smiles=["C", "CC", "CCC", "CCCC"],
    )
    mono = aggregate(adata, "A")
    assert list(mono.obs_names) == ["A2", "A10"]  # the categories' order
    assert list(mono.obs.columns) == ["A", "n_compounds"]
    assert list(mono.obs["n_compounds"]) == [2, 2]
    np.testing.assert_array_equal(mono.X.toarray(), [[6, 8], [10, 12]])
    assert sp.issparse(mono.X) and mono.X.format == "csr" and mono.X.dtype == np.float32
    pd.testing.assert_frame_equal(mono.var, adata.var)
    both = aggregate(adata, ["A", "B"])
    assert list(both.obs_names) == ["A2-B1", "A2-B2", "A10-B2"]
    assert list(both.obs["n_compounds"]) == [1, 1, 2]
    np.testing.assert_array_equal(both.X.toarray(), [[1, 2], [5, 6], [10, 12]])
    np.testing.assert_array_equal(np.asarray(adata.X.sum(axis=0)).ravel(), [16, 20])  # as it was


def test_aggregates_of_aggregates():
    adata = grid()
    twice = aggregate(aggregate(adata, ["C", "A"]), "A")
    once = aggregate(adata, "A")
    pd.testing.assert_frame_equal(twice.obs, once.obs)
    np.testing.assert_array_equal(twice.X.toarray(), once.X.toarray())
    assert list(once.obs["n_compounds"]) == [20, 20, 20]


@pytest.mark.parametrize("keys", ["A", ["A", "B"]])
def test_aggregates_are_written_and_read(tmp_path, keys):
    adata = grid()
    adata.obs["A"] = [int(name[1:]) for name in adata.obs["A"]]
    synthons = aggregate(adata, keys)
    synthons.write_h5ad(tmp_path / "synthons.h5ad")
    back = ad.read_h5ad(tmp_path / "synthons.h5ad")
    assert list(back.obs_names) == list(synthons.obs_names)
    pd.testing.assert_frame_equal(enrichment_ratio(back), enrichment_ratio(synthons))


def test_sums_are_exact():
    adata = library([[2**24, 1], [1, 1], [1, 1]], ["target", "control"], A=["A1", "A1", "A2"])
    mono = aggregate(adata, "A")
    np.testing.assert_array_equal(mono.X.toarray(), [[2**24 + 1, 2], [1, 1]])
    # 2^24 + 2 counts in all; a sum in float32 would be 2^24.
    share = 1 / (2**24 + 2)
    np.testing.assert_allclose(normalized_z_score(adata).iloc[1], (share - 1 / 3) / np.sqrt(2 / 9), rtol=1e-12)
    spread = library(np.array([[2**24, 1, 1], [1, 0, 0]]), ["target"] * 3)
    np.testing.assert_allclose(normalized_z_score(spread).iloc[0], (2**24 + 2) / (2**24 + 3) * 2 - 1, rtol=1e-15)


def test_scores_of_synthons_take_their_size_into_account():
    # A1 has three compounds of four, so three quarters are expected of it.
    adata = library([[3], [1], [2], [6]], ["target"], A=["A1", "A1", "A1", "A2"])
    mono = aggregate(adata, "A")
    np.testing.assert_allclose(normalized_z_score(mono), np.array([-0.25, 0.25]) / np.sqrt(3 / 16), rtol=1e-12)
    tail = stats.poisson.sf([5, 5], [9.0, 3.0])
    np.testing.assert_allclose(poly_o(mono), -np.log10(tail), rtol=1e-10)
    # In a full grid all sizes are equal, and expected shares those of a library of synthons.
    full = aggregate(grid(), "B")
    pd.testing.assert_series_equal(
        normalized_z_score(full), normalized_z_score(AnnData(full.X, obs=full.obs[["B"]], var=full.var))
    )


def test_enrichment_of_synthons():
    mono = aggregate(grid(), "C")
    target, control = pooled(mono, "target"), pooled(mono, "control")
    table = enrichment_ratio(mono)
    np.testing.assert_allclose(table["ratio"], target / target.sum() / (control / control.sum()), rtol=1e-12)
    assert ((table["lower"] < table["ratio"]) & (table["ratio"] < table["upper"])).all()


def test_a_planted_synthon_comes_first():
    adata = grid()
    counts = adata.X.toarray()
    counts[np.ix_((adata.obs["B"] == "B2").to_numpy(), [0, 2])] *= 4
    adata.X = sp.csr_matrix(counts)
    mono = aggregate(adata, "B")
    for score in (
        normalized_z_score(mono),
        enrichment_lower_bound(mono),
        poly_o(mono),
        poly_o(adata, synthon_keys="B"),
    ):
        assert score.idxmax() == "B2"


@pytest.mark.parametrize("keys", ["D", ["A", "D"], [], ["A", "A"]])
def test_keys_are_columns_of_obs(keys):
    for ask in (aggregate, lambda adata, keys: poly_o(adata, synthon_keys=keys)):
        with pytest.raises(ValueError, match=r"columns of adata.obs.*'A', 'B', 'C'"):
            ask(grid(), keys)


def test_compounds_without_a_building_block_are_not_dropped():
    adata = grid()
    adata.obs.loc[["compound7", "compound9"], "B"] = None
    with pytest.raises(ValueError, match=r"2 row.*'compound7'.*fill in a name"):
        aggregate(adata, ["A", "B"])


def test_synthons_of_one_name_are_refused():
    adata = library([[1], [2]], ["target"], A=["a-b", "a"], B=["c", "b-c"])
    with pytest.raises(ValueError, match="two synthons the name 'a-b-c'"):
        aggregate(adata, ["A", "B"])


# Refusals and what does not matter ------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("stored", [sp.csc_matrix, sp.csr_array, np.asarray])
def test_storage_does_not_matter(score, stored):
    adata = grid()
    other = adata.copy()
    other.X = stored(adata.X.toarray())
    other.var["condition"] = pd.Categorical(other.var["condition"])
    before = other.X.copy()
    for one_way, another in ((other, adata), (other[::-2], adata[::-2].copy())):
        assert score(one_way).equals(score(another))
    assert abs(other.X - before).max() == 0


@pytest.mark.parametrize("score", SCORES)
def test_conditions_are_needed_by_name(score):
    adata = grid()
    adata.var["condition"] = ["beads", "control", "beads", "pre-selection"]
    with pytest.raises(ValueError, match=r"must be a condition in .*'beads', 'control', 'pre-sel.*; got 'target'"):
        score(adata)
    adata.var = adata.var.rename(columns={"condition": "state"})
    with pytest.raises(ValueError, match=r"must have a column 'condition'.*; got \['state'\]"):
        score(adata)


def test_the_argument_is_named():
    adata = grid()
    for ask, message in (
        (lambda: normalized_z_score(adata, condition="no"), "condition must be .*; got 'no'"),
        (lambda: poly_o(adata, condition="no"), "condition must be .*; got 'no'"),
        (lambda: enrichment_ratio(adata, target="no"), "target must be .*; got 'no'"),
        (lambda: enrichment_lower_bound(adata, control="no"), "control must be .*; got 'no'"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_an_arm_without_counts():
    for counts, argument in (([[1, 0], [2, 0]], "control='control'"), ([[0, 1], [0, 2]], "target='target'")):
        with pytest.raises(ValueError, match=f"{argument} have no counts at all"):
            enrichment_ratio(library(counts, ["target", "control"]))
    for score in (normalized_z_score, poly_o):
        with pytest.raises(ValueError, match="condition='target' have no counts at all"):
            score(one([0, 0, 0]))


@pytest.mark.parametrize("score", [*SCORES, lambda adata: aggregate(adata, "A")])
@pytest.mark.parametrize("stored", [sp.csr_matrix, np.asarray])
@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, np.inf])
def test_what_is_no_count_is_refused(score, stored, value):
    adata = grid()
    x = adata.X.toarray()
    x[3, 0] = value
    adata.X = stored(x)
    with pytest.raises(ValueError, match=f"must hold counts; got 1 other value.*, such as {value:g}"):
        score(adata)


@pytest.mark.parametrize("score", [*SCORES, lambda adata: aggregate(adata, "A")])
def test_counts_must_be_there(score, tmp_path):
    adata = grid()
    empty = AnnData(obs=adata.obs, var=adata.var, layers={"reads": adata.X})
    with pytest.raises(ValueError, match=r"adata.X must hold the counts; got None"):
        score(empty)
    adata.write_h5ad(tmp_path / "library.h5ad")
    backed = ad.read_h5ad(tmp_path / "library.h5ad", backed="r")
    try:
        with pytest.raises(ValueError, match=r"adata.to_memory\(\)"):
            score(backed)
    finally:
        backed.file.close()


def test_sizes_of_synthons_must_be_positive():
    mono = aggregate(grid(), "A")
    mono.obs["n_compounds"] = [20, 0, 20]
    for score in (normalized_z_score, poly_o):
        with pytest.raises(ValueError, match=r"adata.obs\['n_compounds'\] must be positive .*; got 1 value"):
            score(mono)
