"""The base of every model: a Pyro program over a batch, with the few facts that training and queries need of it."""

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

from pyro_omics.batch import RowBatch
from pyro_omics.guides.amortized import Amortized
from pyro_omics.guides.guided_model import Guide
from pyro_omics.layers import Encoder, log_counts
from pyro_omics.layers.eval_mode import prototype_trace
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.optim import ClippedAdam
from pyro_omics.parts.base import Part
from pyro_omics.schema import RowData
from pyro_omics.serialization.arguments import RecordsArguments
from pyro_omics.sites import PLATE
from pyro_omics.sizes import Sizes


class CountModel(FastPyroModule, RecordsArguments):
    """A Pyro program ``forward(batch)`` over a minibatch of counts.

    A model of one's own sets ``local_sites``, opens ``self.plate(batch)`` around them, and observes the counts in it;
    training, validation, posterior queries and checkpoints then work on it. Everything sampled outside the plate is
    global, and counts once per data set.

    Parameters
    ----------
    n_obs
        number of training rows: the plate's size.

    Attributes
    ----------
    local_sites
        names of the latents that each row has its own of. The first is what `Posterior.latent` reports.
    queries
        name of a method ``(batch, latents, **options)`` -> what its columns are: an axis of the DataModule's schema,
        such as ``"genes"``, or several for a method that returns several tensors; `Posterior` offers each under the
        same name.
    axes
        name of a site -> what its last dimensions are, such as ``("genes",)``, for the labels of draws.
    levels
        name of an axis -> the names along it, for axes of the model's own that the data's description lacks.
    tables
        names of methods of `Posterior` whose tables a fit's report writes, such as ``"enrichment"``.
    starts
        name of a latent site -> where a guide should start it.
    learning_rate
        of the default optimizer.
    given_example
        a batch of the data, which `SVIModule` sets for a model that has nothing to make `example_batch` from.
    """

    local_sites: tuple[str, ...] = ()
    queries: ClassVar[dict[str, str | tuple[str, ...]]] = {}
    axes: Mapping[str, tuple[str, ...]] = {}
    levels: Mapping[str, Sequence[str]] = {}
    tables: ClassVar[tuple[str, ...]] = ()
    learning_rate: ClassVar[float] = 1e-3
    n_genes: int
    given_example: Any = None

    def __init__(self, n_obs: int) -> None:
        super().__init__()
        if n_obs < 1:
            raise ValueError(f"n_obs must be the number of training rows, at least 1; got {n_obs}")
        self.n_obs = n_obs
        self.encoders = PyroModule[nn.ModuleDict]()
        self.starts: dict[str, Tensor] = {}
        self._shared = _SharedTrace()

    @classmethod
    def from_data(cls, dm: RowData, **options: Any) -> CountModel:
        """The model for a DataModule's data: what the constructor asks of ``dm.sizes`` is filled in.

        Parameters
        ----------
        dm
            a DataModule; its ``sizes``, or those of their fields that the constructor names, are passed on.
        options
            the constructor's other arguments.
        """
        if not hasattr(dm, "sizes"):
            raise TypeError(f"from_data takes a DataModule, such as CellDataModule(adata); got a {type(dm).__name__}")
        wanted = inspect.signature(cls.__init__).parameters
        known = {"sizes": dm.sizes, **{field.name: getattr(dm.sizes, field.name) for field in fields(dm.sizes)}}
        known.pop("n_latent", None)
        filled = {name: value for name, value in known.items() if name in wanted and name not in options}
        return cls(**filled, **options)

    @property
    def latent_site(self) -> str:
        """The local site that `Posterior.latent` reports: the first."""
        return self.local_sites[0]

    @property
    def latent_key(self) -> str:
        """Where the latent is written in an AnnData's obsm: "X_scvi" for `SCVI`."""
        return f"X_{type(self).__name__.lower()}"

    def plate(self, batch: RowBatch) -> pyro.plate:
        """The plate over rows, at the size of the whole data: a minibatch is scaled up to it.

        Weights that are latent (PyroSample) are drawn here, before the plate opens: inside it they would be drawn
        once per row.
        """
        # A guide that opens the plate runs outside of the model, where they would be drawn from the prior for nothing.
        modules: list[nn.Module | None] = [self] if self._pyro_context.active else []
        while modules:  # self.modules() takes five times as long, at each step
            module = modules.pop()
            if module is not None:
                for name in module.__dict__.get("_pyro_samples", ()):
                    getattr(module, name)
                modules.extend(reversed(module._modules.values()))
        return pyro.plate(PLATE, self.n_obs, subsample=batch.index)

    def example_batch(self) -> Any:
        """A tiny batch of the right shapes, for making what is made at the first call.

        It is made of the model's ``sizes``, or, for cells alone, of its ``n_genes``.
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
        """The trace of the model on an example: which sites it has, on which supports and of which shapes.

        While `SVIModule` makes a pair this is one trace for all who ask. At any other time it is a new one, of a run on
        ``batch``, or on `example_batch` where that is None.
        """
        if self._shared.trace is not None:
            return self._shared.trace
        return prototype_trace(self, self.example_batch() if batch is None else batch)

    @contextmanager
    def sharing(self, trace: Trace) -> Iterator[None]:
        """Inside the block, `example_trace` answers with ``trace``, so that nobody runs the model again."""
        self._shared.trace = trace
        try:
            yield
        finally:
            self._shared.trace = None

    def encoder_inputs(self, batch: Any) -> Tensor:
        """What the encoder sees of a batch (n, n_in): log(1 + x)."""
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
        """Make the encoder of ``site`` if there is none: a guide or a prior calls this, and may then `encode`."""
        if site not in self.encoders:
            self.encoders[site] = self.build_encoder(site, n_out)

    def encode(self, batch: Any, site: str = "z", latents: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Location and scale (n, n_out) of the unconstrained posterior of ``site``.

        Parameters
        ----------
        batch
            the rows.
        site
            name of a local site.
        latents
            values of the local sites before it in ``local_sites``, for a model whose posterior of one depends on
            another's.
        """
        return self.encoded(site, self.encoder_inputs(batch), self.encoder_covariates(batch))

    def encoded(self, site: str, inputs: Tensor, cov: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the encoder of ``site`` makes of these inputs: location and scale."""
        encoder = self.encoders[site]
        try:
            out = encoder(inputs) if cov is None else encoder(inputs, cov)
        except RuntimeError as error:
            if "shape" not in str(error) and "size" not in str(error):
                raise
            raise ValueError(
                f"the encoder of {site!r} does not take its inputs ({error}): make it with n_in={inputs.shape[-1]}"
                f"{'' if cov is None else f' and n_cov={cov.shape[-1]}'}"
            ) from error
        if not (isinstance(out, tuple) and len(out) == 2 and out[0].shape == out[1].shape):
            raise ValueError(f"the encoder of {site!r} must return a location and a scale; got {_shape(out)}")
        return out

    def informed(self, site: str, batch: Any) -> Tensor | None:
        """Which entries of a local latent (n, *event shape) the batch's data say something of; None for all.

        The others are left out of the KL, where model and guide sample them as `distributions.masked` by this: what is
        not measured then costs nothing, and the guide may still impute it.
        """
        return None

    def penalty(self, batch: Any, latents: Mapping[str, Tensor]) -> Tensor | None:
        """A term that is added to the loss in training, in nats per observation; never part of a logged ELBO.

        Parameters
        ----------
        batch
            a minibatch of training rows.
        latents
            the values that the guide drew in this step, with their gradient.
        """
        return None

    def warm_start(self, guide: Guide, dm: RowData) -> None:
        """Give the guide (or the model) a better start than its own, once, before training, from the data.

        The base asks each part of the model (`parts.base.Part`) for its own.

        Parameters
        ----------
        guide
            the model's guide, made.
        dm
            the DataModule that is trained on: ``dm.data`` are its rows, ``dm.rows("training")`` those to use.
        """
        for module in self.modules():
            if isinstance(module, Part):
                module.warm_start(self, dm)

    def default_guide(self) -> Callable[[CountModel], Guide]:
        """The guide that suits the model, a callable model -> guide: `guides.Amortized` unless it says otherwise."""
        return Amortized

    def default_elbo(self) -> ELBO | None:
        """The ELBO that suits the model, ``TraceEnum_ELBO(max_plate_nesting=1)`` where it sums discrete latents out.

        None is `elbos.TraceELBO`.
        """
        return None

    def default_optimizer(self) -> Callable[[Iterable[Tensor]], Optimizer]:
        """The optimizer that suits the model, a callable parameters -> optimizer: ClippedAdam at `learning_rate`."""
        return partial(ClippedAdam, lr=self.learning_rate)


class _SharedTrace:
    """Holds a trace for as long as a pair is made; a copy or a pickle of it is empty."""

    def __init__(self) -> None:
        self.trace: Trace | None = None

    def __reduce__(self) -> tuple[type[_SharedTrace], tuple[()]]:
        return _SharedTrace, ()


def _shape(out: Any) -> str:
    return f"a tensor of shape {tuple(out.shape)}" if isinstance(out, Tensor) else repr(out)[:80]
