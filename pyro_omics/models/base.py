"""`CountModel`: base class of the models, and what training and queries need to know of a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar

import pyro
from pyro.infer import ELBO
from pyro.nn import PyroModule
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_omics.batch import RowBatch
from pyro_omics.guides.amortized import Amortized
from pyro_omics.guides.guided_model import Guide
from pyro_omics.layers import Encoder, log_counts
from pyro_omics.layers.eval_mode import prototype_trace
from pyro_omics.layers.module import FastPyroModule, local_parameters, parameters_are_collected
from pyro_omics.optim import ClippedAdam, OneCycle
from pyro_omics.parts.base import Part
from pyro_omics.parts.other_names import TRAIN, HintsOfNames, attribute_error, check_arguments
from pyro_omics.schema import RowData
from pyro_omics.serialization.arguments import RecordsArguments
from pyro_omics.sites import PLATE
from pyro_omics.sizes import Sizes


class CountModel(FastPyroModule, RecordsArguments, metaclass=HintsOfNames):
    """A Pyro program ``forward(batch)`` over a minibatch of counts.

    A custom model sets ``local_sites``, samples them inside ``self.plate(batch)``, and observes the counts there;
    training, validation, posterior queries and checkpoints then work with it. Everything sampled outside the plate is
    global, and counts once per data set.

    Parameters
    ----------
    n_obs
        number of training rows: the plate's size.

    Attributes
    ----------
    local_sites
        names of the latents that each row has. `Posterior.latent` reports the first.
    queries
        name of a method ``(batch, latents, **options)`` -> the axis of its columns in the DataModule's schema, such as
        ``"genes"``, or a tuple of axes for a method that returns several tensors; `Posterior` has a method of the same
        name for each.
    axes
        name of a site -> the axes of its last dimensions, such as ``("genes",)``, for the labels of draws.
    levels
        name of an axis -> the names along it, for axes that the data's schema does not have.
    tables
        names of methods of `Posterior` whose tables are written to a fit's report, such as ``"enrichment"``.
    starts
        name of a latent site -> its initial value in a guide.
    started
        whether the weights are a start from the data, or were loaded, so that `warm_start` is not to be called.
    learning_rate
        learning rate of the default optimizer, at the peak of the default schedule.
    recommended_steps
        number of steps after which a fit by the default recipe is good, see `inference.fitting.recommended_epochs`.
    given_example
        a batch of the data, which `SVIModule` sets for a model that cannot make an `example_batch` itself.
    """

    local_sites: tuple[str, ...] = ()
    queries: ClassVar[dict[str, str | tuple[str, ...]]] = {}
    axes: Mapping[str, tuple[str, ...]] = {}
    levels: Mapping[str, Sequence[str]] = {}
    tables: ClassVar[tuple[str, ...]] = ()
    learning_rate: ClassVar[float] = 2e-2
    recommended_steps: ClassVar[int] = 2000
    started = False
    n_genes: int
    given_example: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make the instance, unless it is given data in place of their sizes, or an argument of another package."""
        check_arguments(cls, kwargs)
        sizes = [*args[:1], *(kwargs[name] for name in ("sizes",) if name in kwargs)]
        if sizes and "sizes" in inspect.signature(cls.__init__).parameters and not hasattr(sizes[0], "description"):
            raise TypeError(
                f"{cls.__name__} is made of a DataModule, {cls.__name__}.from_data(CellDataModule(adata)), or of its "
                f"sizes; got a {type(sizes[0]).__name__}"
            )
        return super().__new__(cls, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            raise attribute_error(error, name) from None

    def __init__(self, n_obs: int) -> None:
        super().__init__()
        if n_obs < 1:
            raise ValueError(f"n_obs must be the number of training rows, at least 1; got {n_obs}")
        self.n_obs = n_obs
        self.encoders = PyroModule[nn.ModuleDict]()
        self.starts: dict[str, Tensor] = {}
        self._shared = _SharedTrace()
        self.register_load_state_dict_post_hook(_mark_started)

    @classmethod
    def from_data(cls, dm: RowData, **options: Any) -> CountModel:
        """Make the model for a DataModule's data, from ``dm.sizes``.

        Parameters
        ----------
        dm
            a DataModule; ``dm.sizes`` is passed as ``sizes``, and its fields as the arguments of the same names.
        options
            the other arguments of the constructor.

        Raises
        ------
        TypeError
            If ``dm`` is not a DataModule.
        """
        if not hasattr(dm, "sizes"):
            raise TypeError(f"dm must be a DataModule, such as CellDataModule(adata); got a {type(dm).__name__}")
        wanted = inspect.signature(cls.__init__).parameters
        known = {"sizes": dm.sizes, **{field.name: getattr(dm.sizes, field.name) for field in fields(dm.sizes)}}
        known.pop("n_latent", None)
        filled = {name: value for name, value in known.items() if name in wanted and name not in options}
        return cls(**filled, **options)

    def train(self, mode: bool = True, **options: Any) -> Any:
        """Set the mode of all modules, as of any torch module; a Trainer's ``fit`` trains."""
        if options or not isinstance(mode, bool):
            raise TypeError(TRAIN)
        return super().train(mode)

    @property
    def latent_site(self) -> str:
        """The local site that `Posterior.latent` reports: the first."""
        return self.local_sites[0]

    @property
    def latent_key(self) -> str:
        """Key of the latent in an AnnData's obsm: "X_scvi" for `SCVI`."""
        return f"X_{type(self).__name__.lower()}"

    def plate(self, batch: RowBatch) -> pyro.plate:
        """The plate over rows, of size `n_obs`, to which a minibatch is scaled up.

        Latent weights (PyroSample) are drawn here, before the plate opens; inside it they would be drawn once per row.
        """
        # Not when a guide calls this outside of the model: there the draws from the prior would not be used.
        modules: list[nn.Module | None] = [self] if self._pyro_context.active else []
        while modules:  # self.modules() takes five times as long
            module = modules.pop()
            if module is not None:
                for name in module.__dict__.get("_pyro_samples", ()):
                    getattr(module, name)
                modules.extend(reversed(module._modules.values()))
        return pyro.plate(PLATE, self.n_obs, subsample=batch.index)

    def example_batch(self) -> Any:
        """A tiny batch of the right shapes, for modules that are built at their first call.

        It is made from the model's ``sizes``, or, for a model of cells without them, from its ``n_genes``.
        """
        if self.given_example is not None:
            return self.given_example
        sizes = getattr(self, "sizes", None)
        if sizes is None and not hasattr(self, "n_genes"):
            raise NotImplementedError(
                f"{type(self).__name__} has neither sizes nor n_genes to make an example batch from: set self.sizes or "
                "self.n_genes, or override example_batch()"
            )
        return (sizes or Sizes(self.n_obs, self.n_genes)).example_batch()

    def example_trace(self, batch: RowBatch | None = None) -> Trace:
        """The trace of the model on an example batch, with the supports and shapes of its sites.

        Inside `reuse_trace` it is the trace given there. Otherwise the model is run on ``batch``; on `example_batch` by
        default.
        """
        if self._shared.trace is not None:
            return self._shared.trace
        return prototype_trace(self, self.example_batch() if batch is None else batch)

    @contextmanager
    def reuse_trace(self, trace: Trace) -> Iterator[None]:
        """Let `example_trace` return ``trace`` inside the block, instead of running the model again."""
        self._shared.trace = trace
        try:
            yield
        finally:
            self._shared.trace = None

    def encoder_inputs(self, batch: Any) -> Tensor:
        """Inputs of the encoder for a batch (n, n_in): log(1 + x)."""
        return log_counts(batch.x)

    def encoder_covariates(self, batch: Any) -> Tensor | None:
        """Covariates for the encoder's layers (n, n_cov), or None."""
        return None

    def build_encoder(self, site: str, n_out: int) -> nn.Module:
        """A network for the amortized posterior of ``site``: (inputs, covariates) -> location, scale (n, n_out)."""
        batch = self.example_batch()
        n_in, cov = self.encoder_inputs(batch).shape[-1], self.encoder_covariates(batch)
        return Encoder(n_in, n_out, n_cov=0 if cov is None else cov.shape[-1])

    def require_encoder(self, site: str, n_out: int) -> None:
        """Create the encoder of ``site`` if there is none; a guide or a prior calls this before `encode`."""
        if site not in self.encoders:
            self.encoders[site] = self.build_encoder(site, n_out)

    def encode(self, batch: Any, site: str = "z", latents: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Location and scale (n, n_out) of the unconstrained posterior of ``site``.

        Parameters
        ----------
        batch
            the minibatch.
        site
            name of a local site.
        latents
            values of the sites before it in ``local_sites``, for a model in which the posterior of one site depends on
            the values of others.
        """
        return self.run_encoder(site, self.encoder_inputs(batch), self.encoder_covariates(batch))

    def run_encoder(self, site: str, inputs: Tensor, cov: Tensor | None) -> tuple[Tensor, Tensor]:
        """Location and scale (n, n_out) that the encoder of ``site`` returns for these inputs (n, n_in)."""
        encoder = self.encoders[site]
        if parameters_are_collected():  # the guide calls the encoder, but does not contain it
            with local_parameters(self), self._pyro_context:
                encoder = getattr(self.encoders, site)
        try:
            out = encoder(inputs) if cov is None else encoder(inputs, cov)
        except RuntimeError as error:
            if "shape" not in str(error) and "size" not in str(error):
                raise
            raise ValueError(
                f"the encoder of {site!r} does not accept its inputs ({error}): make it with n_in={inputs.shape[-1]}"
                f"{'' if cov is None else f' and n_cov={cov.shape[-1]}'}"
            ) from error
        if not (isinstance(out, tuple) and len(out) == 2 and out[0].shape == out[1].shape):
            raise ValueError(f"the encoder of {site!r} must return a location and a scale; got {_shape(out)}")
        return out

    def informed(self, site: str, batch: Any) -> Tensor | None:
        """Mask (n, *event shape) of the entries of a local latent that the batch's data inform; None means all.

        A model that masks the site with it (`distributions.masked`), as the guides do, leaves the other entries out of
        the KL: what was not measured costs nothing, and the guide can still impute it.
        """
        return None

    def penalty(self, batch: Any, latents: Mapping[str, Tensor]) -> Tensor | None:
        """A term added to the training loss, in nats per observation, and never part of a logged ELBO.

        Parameters
        ----------
        batch
            a minibatch of training rows.
        latents
            the values drawn by the guide in this step, with gradients.
        """
        return None

    def weight_priors(self) -> Iterable[tuple[Tensor, float]]:
        r"""Parameters with a zero-mean Normal prior whose mode is trained, each with the prior's standard deviation.

        Training adds :math:`\sum w^2 / 2 \sigma^2` to the negative bound, in its gradient alone: what an AutoDelta over
        the weights, made latent by `bayesianize`, would train. The prior is not part of any ELBO. None by default.
        """
        return ()

    def warm_start(self, guide: Guide, dm: RowData) -> None:
        """Initialize model and guide from the data, before the first fit.

        The base class calls `parts.base.Part.warm_start` of each part of the model. An override calls it too, and may
        set the outputs of its networks to the mean of what they predict, with `parts.starts`.

        Parameters
        ----------
        guide
            the guide of the model.
        dm
            the DataModule of the training data: ``dm.data`` holds its rows, ``dm.rows("training")`` lists those to use.
        """
        for module in self.modules():
            if isinstance(module, Part):
                module.warm_start(self, dm)

    def default_guide(self) -> Callable[[CountModel], Guide]:
        """The model's default guide, as a callable model -> guide: `guides.Amortized` unless overridden."""
        return Amortized

    def default_elbo(self) -> ELBO | None:
        """The model's default ELBO; None for `elbos.TraceELBO`.

        A model with discrete latents that are summed out returns ``TraceEnum_ELBO(max_plate_nesting=1)``.
        """
        return None

    def default_optimizer(self) -> Callable[[Iterable[Tensor]], Optimizer]:
        """The model's default optimizer, as a callable parameters -> optimizer: ClippedAdam with `learning_rate`."""
        return partial(ClippedAdam, lr=self.learning_rate)

    def default_scheduler(self) -> Callable[..., LRScheduler] | None:
        """The model's default schedule of the learning rate: `optim.OneCycle`; None for a constant rate."""
        return OneCycle


def _mark_started(model: nn.Module, _: Any) -> None:
    model.started = True  # type: ignore[assignment]


class _SharedTrace:
    """Holder of the trace that `CountModel.reuse_trace` sets; copies and pickles of it are empty."""

    def __init__(self) -> None:
        self.trace: Trace | None = None

    def __reduce__(self) -> tuple[type[_SharedTrace], tuple[()]]:
        return _SharedTrace, ()


def _shape(out: Any) -> str:
    return f"a tensor of shape {tuple(out.shape)}" if isinstance(out, Tensor) else repr(out)[:80]
