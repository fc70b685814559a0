"""Figures of DNA-encoded libraries: their artists hold the data they are given."""

import io
import itertools
from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import xarray as xr
from anndata import AnnData
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy import stats

from pyro_omics import plots


def library(n_blocks=(3, 4), n_target=3, n_control=2, mean=4.0, seed=0):
    """Poisson counts of all combinations of building blocks "A1", "A2", ...; the selections are of uneven depth."""
    rng = np.random.default_rng(seed)
    codes = np.indices(n_blocks).reshape(len(n_blocks), -1)
    obs = pd.DataFrame({name: [f"{name}{code + 1}" for code in row] for name, row in zip("ABCD", codes, strict=False)})
    obs.index = ["-".join(row) for row in obs.to_numpy()]
    condition = ["target"] * n_target + ["control"] * n_control
    var = pd.DataFrame({"condition": condition}, index=[f"s{i}" for i in range(len(condition))])
    depth = mean * np.arange(1, len(var) + 1)
    x = rng.poisson(depth * rng.gamma(2.0, 0.5, (len(obs), 1))).astype(np.float32)
    return AnnData(sp.csr_matrix(x), obs=obs, var=var)


def hit_list(adata, *rows, **columns):
    """A hit list of these rows of the AnnData."""
    return pd.DataFrame({"log_enrichment": np.arange(1.0, len(rows) + 1), **columns}, index=adata.obs_names[list(rows)])


def pooled(adata, condition):
    return np.asarray(adata.X[:, (adata.var["condition"] == condition).to_numpy()].sum(1)).ravel()


def drawn(figure):
    """The figure, once it was written as a picture."""
    assert isinstance(figure, Figure)
    file = io.BytesIO()
    figure.savefig(file)
    assert file.getvalue().startswith(b"\x89PNG")
    return figure


def labelled(axes, label):
    """The artist with this label."""
    (artist,) = [one for one in (*axes.collections, *axes.lines, *axes.patches) if one.get_label() == label]
    return artist


# Target against control -----------------------------------------------------------------------------------------------


def test_target_against_control_has_each_compound_and_rings_the_hits():
    adata = library()
    figure = drawn(plots.target_against_control(adata, hit_list(adata, 7, 2)))
    axes = figure.axes[0]
    target, control = pooled(adata, "target"), pooled(adata, "control")
    points = axes.collections[0]
    expected, number = np.unique(np.stack([control, target], 1), axis=0, return_counts=True)
    found = np.asarray(points.get_offsets()) * [control.mean(), target.mean()]
    order = np.lexsort(found.T[::-1])
    np.testing.assert_allclose(found[order], expected, rtol=1e-6)
    np.testing.assert_array_equal(points.get_array()[order], number)
    rings = np.asarray(labelled(axes, "hits").get_offsets())
    np.testing.assert_allclose(rings, np.stack([control / control.mean(), target / target.mean()], 1)[[7, 2]])
    x, y = labelled(axes, "as in the control").get_data()
    np.testing.assert_array_equal(x, y)
    assert axes.get_title() == "12 compounds, 2 hits"


def test_compounds_with_the_same_counts_are_one_point_of_that_number():
    adata = AnnData(
        np.array([[2, 1], [0, 3], [2, 1], [2, 1]], np.float32),
        var=pd.DataFrame({"condition": ["target", "control"]}, index=["t", "c"]),
        obs=pd.DataFrame(index=list("abcd")),
    )
    points = plots.target_against_control(adata, pd.DataFrame(index=["b"])).axes[0].collections[0]
    np.testing.assert_allclose(points.get_offsets(), [[2.0, 0.0], [1 / 1.5, 2 / 1.5]])
    np.testing.assert_array_equal(points.get_array(), [1, 3])


def test_without_controls_counts_are_ranked_beside_a_library_without_binders():
    adata = library(n_blocks=(5, 6), n_control=0)
    figure = drawn(plots.target_against_control(adata, hit_list(adata, 4, 20)))
    axes, counts = figure.axes[0], pooled(adata, "target")
    rank, shown = labelled(axes, "counts").get_data()
    np.testing.assert_array_equal(rank, np.arange(1, 31))
    np.testing.assert_allclose(shown, np.sort(counts)[::-1] / counts.mean())
    for (at, height), row in zip(labelled(axes, "hits").get_offsets(), (4, 20), strict=True):
        assert height == pytest.approx(counts[row] / counts.mean())
        assert shown[int(at) - 1] == pytest.approx(height)
    some, expected = labelled(axes, "without binders (Poisson)").get_data()
    assert list(some) == list(range(1, 31))
    wanted = stats.poisson.ppf(1 - (np.arange(30) + 0.5) / 30, counts.mean()) / counts.mean()
    np.testing.assert_allclose(expected, wanted)


def test_an_empty_hit_list_is_drawn():
    adata = library()
    none = hit_list(adata)
    assert drawn(plots.target_against_control(adata, none)).axes[0].get_title() == "12 compounds, 0 hits"
    assert drawn(plots.cube(adata, none)).axes[0].get_title() == "no hits"


@pytest.mark.parametrize("figure", [plots.target_against_control, plots.cube])
def test_hits_of_another_library_are_refused(figure):
    adata = library()
    with pytest.raises(ValueError, match=r"of adata\.obs_names as its index; got 1 others, such as 'other'"):
        figure(adata, pd.DataFrame({"log_enrichment": [1.0, 2.0]}, index=["A1-B1", "other"]))


def test_a_condition_that_no_selection_has_is_refused():
    adata = library()
    with pytest.raises(ValueError, match=r"target must be a condition .*; got 'bound'"):
        plots.target_against_control(adata, hit_list(adata), target="bound")
    with pytest.raises(ValueError, match=r"condition must be a condition .*; got 'bound'"):
        plots.replicate_agreement(adata, "bound")


# Replicates -----------------------------------------------------------------------------------------------------------


def test_replicates_are_compared_pairwise():
    adata = library()
    figure = drawn(plots.replicate_agreement(adata))
    panels = {(axes.get_xlabel(), axes.get_ylabel()): axes for axes in figure.axes if axes.get_xlabel()}
    logs = np.log1p(adata.X.toarray())
    assert len(panels) == 3
    for i, j in ((0, 1), (0, 2), (1, 2)):
        axes = panels[f"log(1 + s{i})", f"log(1 + s{j})"]
        assert axes.get_title() == f"r = {stats.pearsonr(logs[:, i], logs[:, j])[0]:.2f}"
        expected, number = np.unique(logs[:, [i, j]], axis=0, return_counts=True)
        found = np.asarray(axes.collections[0].get_offsets())
        order = np.lexsort(found.T[::-1])
        np.testing.assert_allclose(found[order], expected, rtol=1e-6)
        np.testing.assert_array_equal(axes.collections[0].get_array()[order], number)


def test_replicates_of_another_condition_are_compared():
    figure = plots.replicate_agreement(library(), "control")
    assert [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()] == ["log(1 + s3)"]


def test_one_replicate_has_nothing_to_agree_with():
    figure = drawn(plots.replicate_agreement(library(n_target=1)))
    assert not figure.axes
    assert "Only one selection is 'target' (s0)" in figure.texts[0].get_text()


def test_a_replicate_that_does_not_vary_has_no_correlation():
    adata = library(n_target=2)
    adata.X = adata.X.toarray()
    adata.X[:, 1] = 3
    assert plots.replicate_agreement(adata).axes[0].get_title() == "r undefined: one replicate is constant"


# The cube -------------------------------------------------------------------------------------------------------------


def test_cube_places_hits_by_their_building_blocks():
    adata = library(n_blocks=(11, 3, 4))
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    names = ["A2-B3-C1", "A10-B1-C4", "A1-B1-C1"]
    table = pd.DataFrame({"log_enrichment": [2.0, 0.5, 4.0]}, index=names)
    figure = plots.cube(adata, table)
    axes = figure.axes[0]
    points = axes.collections[0]
    # The weakest first; A10 comes after A2. Drawing sorts them by distance.
    np.testing.assert_array_equal(np.stack(points._offsets3d, 1), [[10, 1, 4], [2, 3, 1], [1, 1, 1]])
    np.testing.assert_array_equal(points.get_array(), [0.5, 2.0, 4.0])
    assert (np.diff(points.get_sizes()) > 0).all()
    assert (axes.get_xlim(), axes.get_ylim(), axes.get_zlim()) == ((0.5, 11.5), (0.5, 3.5), (0.5, 4.5))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [f"A{i}" for i in range(1, 12)]
    assert axes.get_zlabel() == "C (4 building blocks)" and axes.get_title() == "3 hits"
    drawn(figure)


def test_a_cube_of_two_cycles_is_flat():
    adata = library(n_blocks=(3, 4))
    points = drawn(plots.cube(adata, hit_list(adata, 11, 0))).axes[0].collections[0]
    np.testing.assert_array_equal(points.get_offsets(), [[3, 4], [1, 1]])


def test_a_flat_cube_names_up_to_60_building_blocks():
    adata = library(n_blocks=(60, 61), n_target=1, n_control=0)
    figure = drawn(plots.cube(adata, hit_list(adata, 0)))
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [f"A{i}" for i in range(1, 61)]
    assert "B1" not in [tick.get_text() for tick in axes.get_yticklabels()]
    boxes = [tick.get_window_extent() for tick in axes.get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))  # none hides another
    solid = library(n_blocks=(13, 2, 2), n_target=1, n_control=0)
    axes = plots.cube(solid, hit_list(solid, 0)).axes[0]
    assert "A1" not in [tick.get_text() for tick in axes.get_xticklabels()]


def test_a_cube_of_named_cycles():
    adata = library(n_blocks=(2, 3, 2, 2))
    with pytest.raises(ValueError, match="synthon_keys must be two or three cycles; got 4"):
        plots.cube(adata, hit_list(adata, 1))
    axes = drawn(plots.cube(adata, hit_list(adata, 23), ["B", "D"])).axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), [[3, 2]])
    assert axes.get_xlabel() == "B (3 building blocks)"


def test_a_cube_without_enrichments_is_refused():
    adata = library()
    with pytest.raises(ValueError, match="must have a column 'log_enrichment'; got"):
        plots.cube(adata, hit_list(adata, 1).rename(columns={"log_enrichment": "score"}))


# Synthons -------------------------------------------------------------------------------------------------------------


def synthons(n=5):
    index = pd.MultiIndex.from_tuples([("ABC"[i % 3], f"block{i}") for i in range(n)], names=["cycle", "synthon"])
    value = np.random.default_rng(1).normal(size=n)
    # The mean of a skewed posterior may lie above its interval.
    return pd.DataFrame({"log_enrichment": value, "lower": value - 0.5, "upper": value - 0.1 * np.arange(n)}, index)


def test_the_forest_shows_the_best_synthons_with_their_intervals():
    table = synthons()
    axes = drawn(plots.synthon_forest(table, top=3)).axes[0]
    best = table.sort_values("log_enrichment", ascending=False).head(3)
    bars, points = axes.collections
    np.testing.assert_allclose([bar[:, 0] for bar in bars.get_segments()], best[["lower", "upper"]].to_numpy())
    np.testing.assert_allclose(points.get_offsets(), np.stack([best["log_enrichment"], [0, 1, 2]], 1))
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [f"{cycle} {name}" for cycle, name in best.index]
    assert axes.yaxis_inverted()  # the first, at 0, is on top
    assert axes.get_title() == "cycle and synthon: the best 3 of 5"


def test_the_forest_compares_building_blocks_with_those_of_their_cycle():
    """Not with a background of 0: each cycle's median is of all its building blocks, not of those shown."""
    table = synthons(9)
    axes = drawn(plots.synthon_forest(table, top=4)).axes[0]
    medians = table["log_enrichment"].groupby("cycle").median()
    assert {line.get_label(): line.get_xdata()[0] for line in axes.lines} == {
        f"median of {cycle}": pytest.approx(median) for cycle, median in medians.items()
    }
    best = table.sort_values("log_enrichment", ascending=False).head(4)
    lines = {line.get_label()[-1]: to_rgba(line.get_color()) for line in axes.lines}
    shown = [lines[cycle] for cycle in best.index.get_level_values("cycle")]
    np.testing.assert_allclose(axes.collections[1].get_facecolors(), shown)
    pairs = plots.synthon_forest(table.rename_axis(["A", "B"])).axes[0]
    (line,) = pairs.lines
    assert line.get_xdata()[0] == pytest.approx(table["log_enrichment"].median())
    assert " ".join(axes.get_xlabel().split()) == (
        "log enrichment of the tags over the background (natural log), 90% interval; compare building blocks with "
        "each other"
    )


def test_a_forest_of_all_synthons():
    axes = plots.synthon_forest(synthons(4).rename_axis(["A", "B"])).axes[0]
    assert axes.get_title() == "A and B: all 4" and len(axes.collections[0].get_segments()) == 4


def test_a_table_that_is_no_table_of_synthons_is_refused():
    with pytest.raises(ValueError, match=r"the columns \['log_enrichment', 'lower', 'upper'\]"):
        plots.synthon_forest(synthons().drop(columns="upper"))
    with pytest.raises(ValueError, match="got 0 rows"):
        plots.synthon_forest(synthons().head(0))
    with pytest.raises(ValueError, match="top must be a number of building blocks, 1 or more; got 0"):
        plots.synthon_forest(synthons(), top=0)


# Calibration ----------------------------------------------------------------------------------------------------------


def predicted(adata, draws, *columns):
    """Draws (sample, n, r) labelled as a Posterior labels them."""
    coords = {"obs": list(adata.obs_names), "target": list(columns or adata.var_names)}
    return xr.DataArray(draws, dims=["sample", "obs", "target"], coords=coords)


def poisson(n=4000, mean=0.7, n_samples=19, factor=1.0, seed=0):
    """Counts in two selections, and draws of them whose mean is ``factor`` times theirs."""
    rng = np.random.default_rng(seed)
    means = mean * rng.gamma(2.0, 0.5, (n, 1)) * np.array([1.0, 4.0])
    x = rng.poisson(means).astype(np.float32)
    adata = AnnData(sp.csr_matrix(x), var=pd.DataFrame(index=["t1", "t2"]))
    return adata, predicted(adata, rng.poisson(factor * means, (n_samples, n, 2)))


def heights(figure, name):
    return labelled(figure.axes[0], name).get_data().values


def band(figure):
    said = "95% if the predictions had not seen these counts;\nones that have are more central"
    box = labelled(figure.axes[0], said).get_bbox()
    return box.y0, box.y1


def test_plots_of_counts_take_a_layer_and_refuse_what_is_none():
    adata, draws = poisson()
    adata.var["condition"] = "target"
    none = pd.DataFrame({"log_enrichment": []}, index=adata.obs_names[:0])
    by_x = drawn(plots.calibration(adata, draws))
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    logged = r"adata.X does not hold counts.*layer='counts'"
    with pytest.raises(ValueError, match=logged):
        plots.calibration(adata, draws)
    assert (heights(drawn(plots.calibration(adata, draws, layer="counts")), "t1") == heights(by_x, "t1")).all()
    for plot in (partial(plots.replicate_agreement, adata), partial(plots.target_against_control, adata, none)):
        with pytest.raises(ValueError, match="counts"):
            plot()
        drawn(plot(layer="counts"))
        with pytest.raises(ValueError, match=r"layer must be a key of adata\.layers"):
            plot(layer="raw")


def test_the_ranks_of_calibrated_counts_are_uniform():
    adata, draws = poisson()
    figure = drawn(plots.calibration(adata, draws))
    lower, upper = band(figure)
    for name in ("t1", "t2"):
        bars = heights(figure, name)
        assert len(bars) == 20 and bars.mean() == pytest.approx(1)
        assert (bars >= lower).all() and (bars <= upper).all()


@pytest.mark.parametrize(("factor", "first"), [(1.3, True), (0.7, False)])
def test_the_ranks_of_biased_predictions_slope(factor, first):
    adata, draws = poisson(factor=factor)
    figure = plots.calibration(adata, draws)
    lower, upper = band(figure)
    bars = heights(figure, "t2") if first else heights(figure, "t2")[::-1]
    assert bars[0] > upper and bars[-1] < lower


def test_the_ranks_are_exact():
    adata = AnnData(np.array([[5.0], [0.0], [3.0]], np.float32), var=pd.DataFrame(index=["t1"]))
    draws = predicted(adata, np.array([[[4], [1], [3]], [[2], [2], [3]], [[0], [9], [3]]]))
    # Above all three draws, below all, and tied with all: the last is anywhere, by the seed.
    bars = heights(plots.calibration(adata, draws, bins=4, seed=1), "t1")
    anywhere = np.random.default_rng(1).random(3)[2]
    expected = np.zeros(4)
    expected[[3, 0]] += 4 / 3
    expected[int(4 * anywhere)] += 4 / 3
    np.testing.assert_allclose(bars, expected)


def test_the_band_holds_95_percent_of_calibrated_histograms():
    adata, draws = poisson(n=500)
    lower, upper = band(plots.calibration(adata, draws, bins=10))
    u = np.random.default_rng(0).random((2000, 500))
    bars = np.stack([np.histogram(row, 10, (0, 1))[0] for row in u]) / 50
    inside = ((bars >= lower - 1e-9) & (bars <= upper + 1e-9)).all(1).mean()
    assert 0.94 <= inside <= 0.985  # Bonferroni's bound, and counts that are whole


def test_counts_are_found_by_name():
    adata, draws = poisson(n=50)
    shuffled = adata[::-1, ::-1].copy()
    one, two = plots.calibration(adata, draws), plots.calibration(shuffled, draws)
    for name in ("t1", "t2"):
        np.testing.assert_array_equal(heights(one, name), heights(two, name))
    half = plots.calibration(adata, draws.sel(target=["t2"]))
    assert half.axes[0].get_legend().get_texts()[0].get_text() == "t2"


def test_draws_that_do_not_fit_are_refused():
    adata, draws = poisson(n=5)
    with pytest.raises(TypeError, match=r"several sites pass one, draws\['x'\]"):
        plots.calibration(adata, xr.Dataset({"x": draws, "control": draws}))
    with pytest.raises(ValueError, match="must have names that are in observed; got 't2'"):
        plots.calibration(adata[:, ["t1"]].copy(), draws)
    with pytest.raises(ValueError, match=r"dimensions \(sample, obs, selection\)"):
        plots.calibration(adata, draws.mean("sample"))
    with pytest.raises(ValueError, match="must have names along 'target'; got none"):
        plots.calibration(adata, draws.drop_vars("target"))
    with pytest.raises(ValueError, match="bins must be a number of bars, 2 or more; got 1"):
        plots.calibration(adata, draws, bins=1)


# Training -------------------------------------------------------------------------------------------------------------


def test_the_training_curve_is_of_observations():
    axes = drawn(plots.training_curve({"train_elbo": [-3.0, -2.0, -1.5]})).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_data(), [[1, 2, 3], [-3.0, -2.0, -1.5]])
    assert axes.get_ylabel().startswith("ELBO per observation")
