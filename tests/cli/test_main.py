"""The command line, in process, over a tiny .h5ad: what it leaves, what can be swapped, and how it refuses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse
import torch
import yaml
from helpers import counts, donors
from own_model import __file__ as own_model_file

import pyro_omics as po
from pyro_omics import cli

N, G = 48, 10
QUIET = [
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]
SMALL = ["--model.model.init_args.n_latent=2", "--model.model.init_args.n_hidden=8", "--model.kl_warmup_epochs=1"]


@pytest.fixture(autouse=True)
def folder(working_folder):
    """A working folder with cells.h5ad in it."""
    counts(N, G, donor=donors(N, "d1", "d2")).write_h5ad("cells.h5ad")
    return working_folder


@pytest.fixture
def own_model(folder, monkeypatch):
    """A model in a file of the working folder, where a user has it."""
    shutil.copy(own_model_file, folder / "my_own_model.py")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
    yield
    sys.modules.pop("my_own_model", None)


def run(command, *options, data="cells.h5ad", out="out"):
    cli.main([command, f"--data.init_args.adata={data}", f"--out={out}", *QUIET, *options])


def fit(*options, epochs=1, model=SMALL, **where):
    run("fit", f"--trainer.max_epochs={epochs}", "--report.umap=false", *model, *options, **where)


def predict(*options, **where):
    run("predict", *options, **where)


def refused(capsys, *options, start=fit, **where):
    """What a failing run says; it must not have begun, nor left anything."""
    before = sorted(os.listdir())
    with pytest.raises(SystemExit) as end:
        start(*options, **where)
    message = f"{end.value.code}\n{capsys.readouterr().err}"
    assert end.value.code not in (0, None)
    assert "Traceback" not in message
    assert sorted(os.listdir()) == before
    return message


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# What a fit leaves ----------------------------------------------------------------------------------------------------


def test_fit_leaves_its_results(folder):
    fit("--data.init_args.batch_key=donor", epochs=2)
    assert files(folder / "out") == [
        "adata.h5ad",
        "checkpoint.ckpt",
        "config.yaml",
        "metrics.json",
        "model/config.json",
        "model/rows.safetensors",
        "model/weights.safetensors",
        "training_curve.png",
        "validation_scores.csv",
    ]
    adata = ad.read_h5ad("out/adata.h5ad")
    dm = po.CellDataModule("cells.h5ad", batch_key="donor")
    post = po.Posterior(po.load("out/model"), dm)
    np.testing.assert_allclose(adata.obsm["X_scvi"], post.latent(), rtol=1e-5)
    np.testing.assert_allclose(adata.obsm["X_scvi_sd"], post.latent_sd(), rtol=1e-5)
    np.testing.assert_array_equal(adata.X, dm.adata.X)
    metrics = json.loads((folder / "out/metrics.json").read_text())
    assert metrics["epochs"] == 2 and metrics["model"] == "SCVI"
    assert (metrics["n_obs"], metrics["n_validation"], metrics["n_genes"]) == (dm.n_obs, N - dm.n_obs, G)
    expected = post.log_likelihood("validation", num_particles=25).mean()
    assert metrics["val_log_likelihood"] == pytest.approx(expected, rel=1e-5)
    assert np.isfinite([metrics["train_elbo"], metrics["val_elbo"]]).all()


def test_the_checkpoint_holds_the_saved_models_weights(folder):
    fit(epochs=2)
    saved = po.load("out/model").state_dict()
    kept = torch.load("out/checkpoint.ckpt", weights_only=True)
    assert kept["epoch"] == 1
    assert all(torch.equal(value, saved[name]) for name, value in kept["state_dict"].items())


def test_a_fit_can_draw_a_umap(folder):
    threads = torch.get_num_threads()
    try:
        run("fit", "--trainer.max_epochs=1", "--report.color=group", *SMALL)
        assert (folder / "out/umap.png").read_bytes().startswith(b"\x89PNG")
        # numba raises it, and torch is then many times slower on cores that others use too.
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(threads)


def test_a_second_fit_replaces_the_first(folder):
    fit("--model.model.init_args.n_latent=3")
    fit()
    assert po.load("out/model").model.n_latent == 2
    assert ad.read_h5ad("out/adata.h5ad").obsm["X_scvi"].shape == (N, 2)
    assert [name for name in files(folder / "out") if "ckpt" in name] == ["checkpoint.ckpt"]


def test_a_fit_repeats_itself():
    fit(out="one")
    fit(out="two")
    one, two = (ad.read_h5ad(f"{out}/adata.h5ad").obsm["X_scvi"] for out in ("one", "two"))
    np.testing.assert_array_equal(one, two)


def test_the_config_of_a_fit_runs_it_again(folder):
    fit("--data.init_args.batch_key=donor", "--model.model.init_args.likelihood=pyro_omics.likelihoods.Poisson")
    cli.main(["fit", "--config=out/config.yaml", "--out=again"])
    one, two = (ad.read_h5ad(f"{out}/adata.h5ad").obsm["X_scvi"] for out in ("out", "again"))
    np.testing.assert_array_equal(one, two)
    assert type(po.load("again/model").model.likelihood) is po.likelihoods.Poisson


def test_a_fit_without_held_out_cells(folder):
    fit("--data.init_args.validation_size=0")
    metrics = json.loads((folder / "out/metrics.json").read_text())
    assert metrics["n_validation"] == 0 and "val_elbo" not in metrics
    assert (folder / "out/checkpoint.ckpt").is_file()


def test_a_fit_goes_on_from_a_checkpoint(folder):
    fit(epochs=1)
    fit("--ckpt_path=out/checkpoint.ckpt", "--weights_only=true", epochs=3)
    assert torch.load("out/checkpoint.ckpt", weights_only=True)["epoch"] == 2


# Asking a checkpoint --------------------------------------------------------------------------------------------------

ASK = ["--ckpt_path=out/checkpoint.ckpt", *SMALL]


@pytest.mark.parametrize(("command", "name"), [("validate", "val_elbo"), ("test", "test_elbo")])
def test_validate_and_test_report_the_elbo_of_held_out_cells(capsys, command, name):
    fit(epochs=3)
    capsys.readouterr()
    run(command, *ASK)
    assert name in capsys.readouterr().out


def test_predict_by_several_processes_is_refused(capsys):
    fit()
    message = refused(capsys, *ASK, "--trainer.devices=2", start=predict, out="new")
    assert "the Trainer has 2 processes: pass trainer.devices=1" in message


def test_predict_gives_the_latent_of_the_fit():
    fit()
    run("predict", *ASK)
    found, expected = ad.read_h5ad("out/predictions.h5ad"), ad.read_h5ad("out/adata.h5ad")
    assert list(found.obs_names) == list(expected.obs_names)
    for key in ("X_scvi", "X_scvi_sd"):
        np.testing.assert_allclose(found.obsm[key], expected.obsm[key], rtol=1e-5, atol=1e-6)


def test_new_data_are_aligned_by_name():
    fit("--data.init_args.batch_key=donor")
    adata = ad.read_h5ad("cells.h5ad")
    adata[30:, ::-1].copy().write_h5ad("new.h5ad")
    options = {"data": "new.h5ad", "out": "new"}
    for command in ("validate", "test"):
        with pytest.warns(UserWarning, match="trained on .* leave these rows out of the data"):
            run(command, "--data.init_args.batch_key=donor", *ASK, **options)
    run("predict", "--data.init_args.batch_key=donor", *ASK, **options)
    found, expected = ad.read_h5ad("new/predictions.h5ad"), ad.read_h5ad("out/adata.h5ad")[30:]
    assert list(found.obs_names) == list(expected.obs_names)
    np.testing.assert_allclose(found.obsm["X_scvi"], expected.obsm["X_scvi"], rtol=1e-5, atol=1e-6)


def test_new_data_without_the_genes_are_refused(capsys):
    fit()
    ad.read_h5ad("cells.h5ad")[:, 1:].copy().write_h5ad("new.h5ad")
    message = refused(capsys, *ASK, start=predict, data="new.h5ad", out="new")
    assert "'gene0'" in message


def test_a_missing_checkpoint_is_named(capsys):
    assert "nowhere.ckpt" in refused(capsys, "--ckpt_path=nowhere.ckpt", *SMALL, start=predict)


@pytest.mark.parametrize("content", [b"not a checkpoint", None])
def test_a_file_that_is_no_checkpoint_is_named(capsys, folder, content):
    if content is None:
        torch.save({"state_dict": {}}, folder / "other.ckpt")
    else:
        (folder / "other.ckpt").write_bytes(content)
    message = refused(capsys, "--ckpt_path=other.ckpt", *SMALL, start=predict)
    assert "other.ckpt" in message


def test_a_checkpoint_of_another_model_is_refused(capsys):
    fit()
    message = refused(capsys, *ASK, "--model.model.init_args.n_latent=5", start=predict, out="new")
    assert "with n_latent=2; got n_latent=5: make it as it was" in message


# Swaps ----------------------------------------------------------------------------------------------------------------


def trained():
    """The pair that the last fit saved, its posterior asked once."""
    svi = po.load("out/model")
    assert np.isfinite(po.Posterior(svi, po.CellDataModule("cells.h5ad")).elbo()).all()
    return svi


def test_the_likelihood_can_be_swapped():
    fit(
        "--model.model.init_args.likelihood=pyro_omics.likelihoods.NegativeBinomial",
        "--model.model.init_args.likelihood.init_args.dispersion=pyro_omics.dispersions.PerGeneCell",
    )
    likelihood = trained().model.likelihood
    assert type(likelihood) is po.likelihoods.NegativeBinomial
    assert type(likelihood.dispersion) is po.dispersions.PerGeneCell


def test_the_prior_can_be_swapped():
    fit("--model.model.init_args.prior=pyro_omics.priors.LogisticNormal")
    assert type(trained().model.prior) is po.priors.LogisticNormal
    np.testing.assert_allclose(ad.read_h5ad("out/adata.h5ad").obsm["X_scvi"].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["MixtureOfGaussians", "VampPrior", "FlowPrior", "HierarchicalNormal"])
def test_a_learned_prior_can_be_swapped_in(name):
    fit(f"--model.model.init_args.prior=pyro_omics.priors.{name}")
    assert type(trained().model.prior) is getattr(po.priors, name)


@pytest.mark.parametrize("inner", ["", "init_args."], ids=["short", "in full"])
def test_a_priors_own_arguments_are_values(inner):
    prior = f"--model.model.{inner}prior"
    fit(f"{prior}=pyro_omics.priors.VampPrior", f"{prior}.{inner}n_components=7")
    assert trained().model.prior.n_components == 7


def test_a_prior_that_the_data_are_too_few_for_is_refused(capsys):
    message = refused(capsys, "--model.model.init_args.prior=pyro_omics.priors.BatchMeans")
    assert "batch_key" in message


def test_the_norm_can_be_swapped():
    fit("--model.model.init_args.norm=pyro_omics.layers.LayerNorm")
    assert trained().model.network["norm"] is po.layers.LayerNorm


def test_the_elbo_can_be_swapped():
    fit("--model.elbo=pyro.infer.TraceMeanField_ELBO", "--model.elbo.init_args.num_particles=2")
    trained()


def test_the_optimizer_can_be_swapped():
    fit("--model.optimizer=pyro.optim.clipped_adam.ClippedAdam", "--model.optimizer.lr=5e-3")
    trained()
    (group,) = torch.load("out/checkpoint.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert group["initial_lr"] == 5e-3 and "clip_norm" in group
    fit("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1e-4")
    (group,) = torch.load("out/checkpoint.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert group["initial_lr"] == 1e-4 and "nesterov" in group


def test_the_scheduler_can_be_swapped():
    fit("--model.scheduler=torch.optim.lr_scheduler.ExponentialLR", "--model.scheduler.gamma=0.5", epochs=2)
    (group,) = torch.load("out/checkpoint.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert group["lr"] == pytest.approx(2e-2 * 0.25)


def test_a_cycle_of_ones_own_has_the_steps_of_the_fit():
    fit("--model.scheduler=pyro_omics.optim.OneCycle", "--model.scheduler.warmup=0.5", epochs=2)
    checkpoint = torch.load("out/checkpoint.ckpt", weights_only=True)
    (cycle,) = checkpoint["lr_schedulers"]
    assert (cycle["warmup"], cycle["n_steps"]) == (0.5, checkpoint["global_step"])
    fit("--model.scheduler=pyro_omics.optim.Constant", epochs=1)
    (group,) = torch.load("out/checkpoint.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert group["lr"] == 2e-2


OWN = ["--allow=my_own_model", "--model.model=my_own_model.PoissonFactors", "--model.kl_warmup_epochs=1"]
MULTIVARIATE = [
    "--model.guide=pyro_omics.guides.Amortized",
    "--model.guide.init_args.rest=pyro.infer.autoguide.AutoMultivariateNormal",
]


def loaded_own():
    from my_own_model import PoissonFactors

    return po.load("out/model", model=PoissonFactors)


def test_an_own_model_is_fitted(own_model):
    fit("--model.model.init_args.n_latent=3", model=OWN)
    svi = loaded_own()
    assert svi.model.n_latent == 3
    dm = po.CellDataModule("cells.h5ad")
    latent = ad.read_h5ad("out/adata.h5ad").obsm["X_poissonfactors"]
    np.testing.assert_allclose(latent, po.Posterior(svi, dm).latent(), rtol=1e-5, atol=1e-6)


def test_the_guides_rest_can_be_swapped(own_model):
    fit(*MULTIVARIATE, model=OWN)
    rest = loaded_own().guide.rest
    assert type(rest).__name__ == "AutoMultivariateNormal"


SWAPS_IN_YAML = """
data:
  class_path: pyro_omics.CellDataModule
  init_args:
    adata: cells.h5ad
    batch_size: 16
model:
  model:
    class_path: my_own_model.PoissonFactors
    init_args:
      n_latent: 3
  guide:
    class_path: pyro_omics.guides.Amortized
    init_args:
      rest:
        class_path: pyro.infer.autoguide.AutoMultivariateNormal
  elbo:
    class_path: pyro.infer.Trace_ELBO
    init_args:
      num_particles: 2
  optimizer:
    class_path: pyro.optim.clipped_adam.ClippedAdam
    init_args:
      lr: 0.005
report:
  umap: false
trainer:
  max_epochs: 1
  accelerator: cpu
  enable_progress_bar: false
out: out
"""


def test_everything_can_be_swapped_in_yaml(own_model, folder):
    (folder / "swaps.yaml").write_text(SWAPS_IN_YAML)
    cli.main(["fit", "--config=swaps.yaml", "--allow", "my_own_model"])
    svi = loaded_own()
    assert svi.model.n_latent == 3
    assert type(svi.guide.rest).__name__ == "AutoMultivariateNormal"
    (group,) = torch.load("out/checkpoint.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert group["initial_lr"] == 0.005


PRIORS = ["BatchMeans", "FlowPrior", "HierarchicalNormal", "LogisticNormal", "MixtureOfGaussians", "VampPrior"]
GUIDES = ["AmortizedFlow", "AmortizedStudentT", "PerObservation", "SemiAmortized"]


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        *(("model.model.init_args.prior", f"priors.{name}") for name in PRIORS),
        *(("model.guide", f"guides.{name}") for name in GUIDES),
        *(("model.elbo", f"elbos.{name}") for name in ("RenyiELBO", "ImportanceWeightedELBO")),
        *(("weight_prior", f"priors.{name}") for name in ("Horseshoe", "WeightNormal")),
    ],
)
def test_each_swap_is_one_value(argument, part):
    """The README's; tests/test_matrix.py has every pair of parts."""
    latent = ["--bayesianize=decoder"] if argument == "weight_prior" else []
    fit(f"--{argument}=pyro_omics.{part}", *latent, "--data.init_args.batch_key=donor")
    svi = po.load("out/model")
    edits = getattr(svi.model, "constructor_edits", [{"prior": None}])
    found = {"priors": edits[0]["prior"] or svi.model.prior, "guides": svi.guide}
    module, name = part.split(".")
    if module == "elbos":  # no part of a fitted model
        assert f"pyro_omics.{part}" in Path("out/config.yaml").read_text()
    else:
        assert type(found[module]).__name__ == name


def test_a_run_s_configuration_has_public_names(folder):
    """Short names are allowed; what is written stays right when a file of the package moves."""
    fit("--model.model.prior=VampPrior", "--model.model.library=Latent", "--model.model.likelihood=NegativeBinomial")
    text = Path("out/config.yaml").read_text()
    for name in ("priors.VampPrior", "library_sizes.Latent", "likelihoods.NegativeBinomial"):
        assert f"class_path: pyro_omics.{name}\n" in text
    assert "pyro_omics.parts" not in text


def test_the_prior_of_weights_may_be_a_distribution(folder):
    prior = "weight_prior:\n  class_path: pyro.distributions.Laplace\n  init_args: {loc: 0.0, scale: 0.25}\n"
    (folder / "prior.yaml").write_text(prior)
    fit("--config=prior.yaml", "--bayesianize=decoder")
    found = po.load("out/model").model.constructor_edits[0]["prior"]
    assert type(found).__name__ == "Laplace" and float(found.scale) == 0.25


def test_a_prior_of_no_weights_is_refused(capsys):
    assert "bayesianize=decoder" in refused(capsys, "--weight_prior=pyro_omics.priors.Horseshoe")


def test_parts_can_be_swapped_in_yaml(folder):
    parts = """
model:
  model:
    class_path: pyro_omics.SCVI
    init_args:
      prior:
        class_path: pyro_omics.priors.LogisticNormal
      likelihood:
        class_path: pyro_omics.likelihoods.NegativeBinomial
        init_args:
          dispersion:
            class_path: pyro_omics.dispersions.PerGene
            init_args:
              by: batch
      library: pyro_omics.library_sizes.Latent
"""
    (folder / "parts.yaml").write_text(parts)
    fit("--config=parts.yaml", "--data.init_args.batch_key=donor")
    model = po.load("out/model").model
    names = [type(part).__name__ for part in (model.prior, model.likelihood.dispersion, model.library)]
    assert names == ["LogisticNormal", "PerGene", "Latent"]
    assert model.likelihood.dispersion.by == "batch"


# Refusals -------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(capsys):
    assert "nowhere.h5ad" in refused(capsys, data="nowhere.h5ad")


def test_data_that_are_no_counts_are_refused(capsys):
    adata = ad.read_h5ad("cells.h5ad")
    adata.X = np.log1p(adata.X)
    adata.write_h5ad("logged.h5ad")
    assert "does not hold counts" in refused(capsys, data="logged.h5ad")


@pytest.mark.parametrize(
    ("option", "name"),
    [
        (
            "--data.init_args.batch_key=patient",
            "batch_key must be a column of adata.obs, ['group', 'donor']; got 'patient'",
        ),
        ("--data.init_args.batch_size=0", "batch_size"),
        ("--data.init_args.validation_size=2", "validation_size"),
        ("--data.init_args.colour=1", "colour"),
        (
            "--report.color=cell_type",
            "report.color must be one of the columns of adata.obs, ['group', 'donor']; got 'cell_type'",
        ),
        ("--model.model=pyro_omics.SCVII", "SCVII"),
        ("--model.model.init_args.n_latnet=3", "n_latnet"),
        ("--model.model.init_args.likelihood=pyro_omics.likelihoods.NegativeBinom", "NegativeBinom"),
        ("--model.kl_warmup_epochs=-1", "kl_warmup_epochs"),
        ("--model.elbo=pyro.infer.RenyiELBO", "RenyiELBO"),
        ("--model.guide=pyro.infer.autoguide.AutoNormal", "guide=AutoNormal alone has no parameters"),
        ("--model.optimizer=pyro.optim.ClippedAdam", "ClippedAdam"),
        ("--model.model.init_args.library=pyro_omics.library_sizes.SizeFactor", "size_factor_key"),
        ("--data=pyro_omics.NoData", "NoData"),
    ],
)
def test_a_wrong_argument_is_named_before_training(capsys, option, name):
    assert name in refused(capsys, option)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model:\n  model:\n    class_path: pyro_omics.models.SCVII\n", "SCVII"),
        ("model:\n  guide:\n    class_path: pyro_omics.guides.Amortised\n", "Amortised"),
        ("model:\n  model:\n    class_path: no_such_package.Model\n", "no_such_package"),
        ("modell:\n  model: 3\n", "modell"),
    ],
)
def test_an_unknown_name_in_yaml_is_named(capsys, folder, text, name):
    (folder / "wrong.yaml").write_text(text)
    assert name in refused(capsys, "--config=wrong.yaml", model=[])


def test_a_missing_config_is_named(capsys):
    assert "nowhere.yaml" in refused(capsys, "--config=nowhere.yaml")


def test_a_failing_fit_leaves_the_last_results_alone(capsys, folder):
    fit()
    before = {name: (folder / "out" / name).read_bytes() for name in files(folder / "out")}
    refused(capsys, "--report.color=cell_type")
    assert {name: (folder / "out" / name).read_bytes() for name in files(folder / "out")} == before


# Help -----------------------------------------------------------------------------------------------------------------


def test_help_of_fit_names_the_parts(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["fit", "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    for part in ("--data", "--model.model", "--model.guide", "--model.elbo", "--report.color", "--out"):
        assert part in text


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("fit", "validate", "test", "predict"))


@pytest.mark.parametrize("arguments", [[], ["train"]])
def test_a_wrong_command_is_refused(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code not in (0, None)
    assert "fit" in capsys.readouterr().err


def test_asking_without_a_checkpoint_is_refused(capsys):
    assert "--ckpt_path is needed" in refused(capsys, *SMALL, start=predict)


def test_errors_of_the_data_are_said_alone(capsys):
    message = refused(capsys, "--data.init_args.batch_key=nowhere", *SMALL)
    assert message.strip().endswith("batch_key must be a column of adata.obs, ['group', 'donor']; got 'nowhere'")
    assert "Union" not in message


# Proteins -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def citeseq(folder):
    adata, _ = po.simulate.citeseq(n_obs=N, n_genes=G, n_proteins=3, n_batches=2)
    adata.obsm["protein_counts"].loc[adata.obs["batch"] == "batch1"] = np.nan
    adata.write_h5ad("cite.h5ad")
    return ["--data.adata=cite.h5ad", "--data.batch_key=batch"]


def test_totalvi_from_the_command_line(citeseq):
    totalvi = ["--model.model=pyro_omics.TotalVI", "--model.model.init_args.norm=pyro_omics.layers.LayerNorm"]
    parts = ["--model.model.init_args.background=pyro_omics.proteins.CellBackground",
             "--model.model.init_args.background.init_args.bound=0.5"]  # fmt: skip
    run = ["fit", *citeseq, "--data.protein_obsm_key=protein_counts", *totalvi, *parts, *SMALL, *QUIET]
    cli.main([*run, "--trainer.max_epochs=1", "--report.umap=false", "--report.num_particles=2", "--out=run"])
    svi = po.load("run/model")
    assert svi.model.background.bound == 0.5
    assert svi.model.network["norm"] is po.layers.LayerNorm
    assert svi.schema.proteins == ("protein0", "protein1", "protein2")
    assert "X_totalvi" in ad.read_h5ad("run/adata.h5ad").obsm
    # Without --data.protein_obsm_key: RNA of new cells, proteins to be imputed.
    cli.main(["predict", "--config=run/config.yaml", "--data.protein_obsm_key=null", "--ckpt_path=run/checkpoint.ckpt",
              "--out=new"])  # fmt: skip
    rna_only = ad.read_h5ad("new/predictions.h5ad").obsm["X_totalvi"]
    # The model is as it was made, whatever the new data have: here a batch that it never saw proteins of has them.
    full, _ = po.simulate.citeseq(n_obs=N, n_genes=G, n_proteins=3, n_batches=2)
    full.write_h5ad("full.h5ad")
    cli.main(["predict", "--config=run/config.yaml", "--data.adata=full.h5ad", "--ckpt_path=run/checkpoint.ckpt",
              "--out=full"])  # fmt: skip
    latent = ad.read_h5ad("full/predictions.h5ad").obsm["X_totalvi"]
    ours = po.Posterior(svi, po.CellDataModule("full.h5ad", batch_key="batch", protein_obsm_key="protein_counts"))
    np.testing.assert_allclose(latent, ours.latent(), rtol=1e-4, atol=1e-5)
    assert rna_only.shape == latent.shape == (N, 2) and not np.allclose(rna_only, latent)


def test_totalvi_without_proteins_is_refused_by_name(citeseq):
    with pytest.raises(SystemExit, match="TotalVI needs protein counts"):
        cli.main(["fit", *citeseq, "--model.model=pyro_omics.TotalVI", *SMALL, *QUIET])


def test_the_totalvi_config_is_valid(pbmc10k, folder, capsys):
    config = Path(po.__file__).parents[1] / "configs" / "totalvi_pbmc10k.yaml"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fit", f"--config={config}", "--print_config"])
    assert stopped.value.code == 0
    assert "pyro_omics.TotalVI" in capsys.readouterr().out


def test_counts_may_stay_on_disk():
    adata = counts(N, G)
    adata.X = scipy.sparse.csr_matrix(adata.X)
    adata.write_h5ad("cells.h5ad")
    fit("--data.backed=true", "--data.batch_size=16")
    assert ad.read_h5ad("out/adata.h5ad").X is None
    fit("--data.batch_size=16", "--data.backed.class_path=pyro_omics.data.Blocks", "--data.backed.init_args.size=4",
        "--data.backed.init_args.number=2", out="blocks")  # fmt: skip
    cli.main(["predict", "--config=blocks/config.yaml", "--ckpt_path=blocks/checkpoint.ckpt", "--out=predicted"])
    found = ad.read_h5ad("predicted/predictions.h5ad")
    np.testing.assert_array_equal(found.obsm["X_scvi"], ad.read_h5ad("blocks/adata.h5ad").obsm["X_scvi"])


@pytest.mark.slow
@pytest.mark.distributed
def test_compare_in_two_processes():
    """Each process that Lightning starts is given the whole command, takes part in all fits, and writes nothing."""
    for name, n_latent in (("a", 2), ("b", 3)):
        config = {
            "data": {"class_path": "pyro_omics.CellDataModule", "init_args": {"adata": "cells.h5ad"}},
            "model": {"model": {"class_path": "pyro_omics.SCVI", "init_args": {"n_latent": n_latent, "n_hidden": 8}}},
            "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 2, "strategy": "ddp"},
            "report": {"umap": False, "num_particles": 2},
        }
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "pyro_omics.cli", "compare", "a.yaml", "b.yaml", "--out=both",
               "--trainer.enable_progress_bar=false"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        environment.pop(name)
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert said.returncode == 0, said.stderr
    assert "MEMBER: 2/2" in said.stderr and said.stdout.count("The table is in") == 1
    assert {line.split(",")[0] for line in Path("both/comparison.csv").read_text().splitlines()[1:]} == {"a", "b"}
