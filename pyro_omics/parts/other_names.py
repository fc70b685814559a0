"""Names that users of scvi-tools type, and what does the same here: one table, for the errors of every class."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from pyro.nn import PyroModule

from pyro_omics.serialization.class_names import PACKAGE

TRAIN = (
    "train() sets the mode of a torch module and takes nothing else: train by svi = SVIModule(model), "
    "pl.Trainer(max_epochs=...).fit(svi, dm)"
)
# Argument -> what to pass.
ARGUMENTS = {
    "accelerator": "pl.Trainer(accelerator=...)",
    "adata": "a DataModule of these data, CellDataModule(adata), and a Posterior over it",
    "batch_size": "CellDataModule(adata, batch_size=...) for training, Posterior(svi, dm, batch_size=...) for queries",
    "categorical_covariate_keys": "CellDataModule(adata, categorical_keys=[...])",
    "check_val_every_n_epoch": "pl.Trainer(check_val_every_n_epoch=...)",
    "continuous_covariate_keys": "CellDataModule(adata, continuous_keys=[...])",
    "deeply_inject_covariates": "nothing: covariates are inputs of every layer",
    "devices": "pl.Trainer(devices=...)",
    "dispersion": "likelihood=likelihoods.NegativeBinomial(dispersion=dispersions.PerGene(by=...))",
    "dropout_rate": "dropout=...",
    "early_stopping": 'pl.Trainer(callbacks=[EarlyStopping("val_elbo", mode="max")])',
    "empirical_protein_background_prior": "nothing: the background starts from the data",
    "gene_likelihood": (
        "likelihood=likelihoods.ZeroInflatedNegativeBinomial(), likelihoods.NegativeBinomial() or likelihoods.Poisson()"
    ),
    "gene_list": "genes=[...]",
    "give_mean": "latent(), the mean, or samples(), draws",
    "indices": 'split="training" or "validation", or a DataModule of these rows, and a Posterior over it',
    "labels_key": "CellDataModule(adata, label_key=...)",
    "latent_distribution": "prior=priors.FlowPrior() or another of priors",
    "lr": "svi.lr = ..., or SVIModule(model, optimizer=...) with a callable that sets it",
    "max_epochs": "pl.Trainer(max_epochs=...)",
    "n_epochs_kl_warmup": "SVIModule(model, kl_warmup_epochs=...)",
    "n_samples": "num_samples=...",
    "n_samples_overall": "num_samples=...",
    "plan_kwargs": "SVIModule(model, optimizer=..., kl_warmup_epochs=...)",
    "protein_expression_obsm_key": "CellDataModule(adata, protein_obsm_key=...)",
    "protein_list": "proteins=[...]",
    "return_mean": "num_samples=..., the mean of these draws, or credible_interval=0.9 for its bounds too",
    "return_numpy": "to_numpy() on the result",
    "sample_protein_mixing": "the query denoised_samples",
    "train_size": "CellDataModule(adata, validation_size=...), the share that is held out",
    "use_batch_norm": "norm=layers.BatchNorm, layers.LayerNorm or None",
    "use_gpu": 'pl.Trainer(accelerator="gpu")',
    "use_layer_norm": "norm=layers.BatchNorm, layers.LayerNorm or None",
    "use_observed_lib_size": "library=library_sizes.Observed() or library_sizes.Latent()",
    "use_size_factor_key": "CellDataModule(adata, size_factor_key=...) and library=library_sizes.SizeFactor()",
}
# Attribute -> what to use.
ATTRIBUTES = {
    "differential_expression": "normalized_expression(num_samples=..., credible_interval=0.9) of both groups",
    "fit": "pl.Trainer(max_epochs=...).fit(svi, dm)",
    "get_elbo": "Posterior(svi, dm).elbo()",
    "get_feature_correlation_matrix": "Posterior(svi, dm).correlations()",
    "get_latent_library_size": 'Posterior(svi, dm).samples("library")',
    "get_latent_representation": "Posterior(svi, dm).latent()",
    "get_marginal_ll": "Posterior(svi, dm).log_likelihood()",
    "get_normalized_expression": "Posterior(svi, dm).normalized_expression()",
    "get_protein_foreground_probability": "Posterior(svi, dm).protein_foreground_probability()",
    "get_reconstruction_error": "Posterior(svi, dm).elbo_parts()",
    "from_scvi_model": "SCANVI.from_data(dm), which is trained from the start",
    "history": "plots.training_curve(history.curves), with history = report.History() among the Trainer's callbacks",
    "is_trained": "svi.fitted",
    "load": "load(path), for every model",
    "posterior_predictive_sample": "Posterior(svi, dm).predictive()",
    "predict": "Posterior(svi, dm).label_probability() of a SCANVI",
    "setup_anndata": "CellDataModule(adata, layer=..., batch_key=..., label_key=...)",
    "to_device": "to(device)",
    "view_anndata_setup": "dm.schema",
}


class HintsOfNames(type(PyroModule)):  # type: ignore[misc]
    """Metaclass of models, whose unknown class attributes are looked up in the table: ``SCVI.setup_anndata``."""

    def __getattr__(cls, name: str) -> Any:
        raise attribute_error(AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}"), name)


def argument_error(error: TypeError, given: Mapping[str, Any]) -> TypeError:
    """The error of a call with an unknown argument, with what to pass instead if the table knows it.

    Parameters
    ----------
    error
        Python's error.
    given
        the keyword arguments of the call.
    """
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if found is None or found[1] not in given or found[1] not in ARGUMENTS:
        return error
    return TypeError(f"{error}{instead(found[1])}")


def instead(argument: str) -> str:
    """The end of an error about an unknown argument: what to pass in its place; "" where the table does not know it."""
    return f"; for {argument}= use {ARGUMENTS[argument]}" if argument in ARGUMENTS else ""


def attribute_error(error: AttributeError, name: str) -> AttributeError:
    """The error of an unknown attribute, with what to use instead if the table knows it."""
    if name not in ATTRIBUTES:
        return error
    return AttributeError(f"{error}; for {name} use {ATTRIBUTES[name]}")


def check_arguments(cls: type, given: Mapping[str, Any]) -> None:
    """Raise for a keyword argument that a class does not take and the table knows; Python finds the others."""
    if not given.keys() & ARGUMENTS.keys():
        return
    makers = [inspect.signature(base.__init__) for base in cls.__mro__ if "__init__" in vars(base)]  # type: ignore[misc]
    taken = {name for maker in makers for name in maker.parameters}
    passes_on = any(one.kind is one.VAR_KEYWORD for one in makers[0].parameters.values())
    if passes_on and not cls.__module__.startswith(f"{PACKAGE}."):
        return  # a class of the user's own may read any name from its **options
    for name in given:
        if name in ARGUMENTS and name not in taken:
            raise argument_error(TypeError(f"{cls.__name__}() got an unexpected keyword argument {name!r}"), given)
