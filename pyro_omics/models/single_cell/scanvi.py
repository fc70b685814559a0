"""SCANVI: scVI with a mixture of cell types as the prior over z, and partly observed labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, TraceEnum_ELBO
from torch import Tensor

from pyro_omics.batch import CellBatch
from pyro_omics.layers.module import pyro_method
from pyro_omics.models.base import CountModel
from pyro_omics.models.single_cell.scvi import SCVI
from pyro_omics.parts.priors.label_mixture import LabelMixture
from pyro_omics.schema import RowData
from pyro_omics.sizes import Sizes


class SCANVI(SCVI):
    r"""SCVI with a mixture of cell types as the prior over z, and labels of some cells.

    .. math::
        y_n &\sim \mathrm{Categorical}(\pi) \\
        z_n \mid y_n &\sim \mathrm{Normal}(m_{y_n}, \mathrm{diag}\, s_{y_n}^2) \\
        \mathrm{label}_n \mid y_n &= y_n \text{ with probability } 1 - \epsilon, \text{ else any other} \\
        x_n \mid z_n &\sim \text{as in SCVI}

    where the label is observed for the cells that have one. pi, m and s are learned. No guide samples the type y: it is
    summed out, by ``TraceEnum_ELBO(max_plate_nesting=1)``, which is the default, or by the bounds of `elbos`, so that
    every ELBO bounds log p(x_n, label_n), or log p(x_n) for a cell without a label. The encoder takes only the counts.

    Parameters
    ----------
    sizes
        sizes of the data; ``SCANVI.from_data(dm)`` passes them, for a CellDataModule with ``label_key=``.
    labels
        names of the levels of the label, in the order of their codes; `from_data` passes them too.
    unlabeled_category
        the level of cells without a known label; None if all cells have one.
    label_error
        epsilon, the share of wrong labels among the known ones, in (0, 1).
    options
        the other arguments of `SCVI`, except ``prior``.

    Raises
    ------
    ValueError
        If ``unlabeled_category`` is not a level of the label, or fewer than two other levels are left.

    Source: Xu et al. 2021, Mol Syst Biol 17, e9620 (scANVI). They model the labels with a classifier network and a
    second latent; here there is only the mixture, whose P(y | z) has a closed form.
    """

    queries: ClassVar[dict[str, str | tuple[str, ...]]] = {**SCVI.queries, "label_probability": "labels"}
    class_of: Tensor

    def __init__(
        self,
        sizes: Sizes,
        labels: Sequence[str],
        unlabeled_category: str | None = "Unknown",
        label_error: float = 0.01,
        **options: Any,
    ) -> None:
        if "prior" in options:
            raise ValueError("SCANVI's prior is the mixture of its labels, and prior= cannot replace it: use SCVI")
        if not 0 < label_error < 1:
            raise ValueError(f"label_error must be a share of wrong labels, in (0, 1); got {label_error}")
        known = [name for name in labels if name != unlabeled_category]
        _check_labels(labels, known, unlabeled_category, sizes)
        super().__init__(sizes, prior=LabelMixture(len(known)), **options)
        self.levels: Mapping[str, Sequence[str]] = {"labels": known}
        code = [known.index(name) if name in known else -1 for name in labels]
        self.register_buffer("class_of", torch.tensor(code), persistent=False)
        error = torch.full((len(known), len(known)), label_error / (len(known) - 1)).fill_diagonal_(1 - label_error)
        self.register_buffer("confusion", error, persistent=False)

    @classmethod
    def from_data(cls, dm: RowData, **options: Any) -> CountModel:
        """Make the model for a CellDataModule's data, from its sizes and the names of the label's levels."""
        named = {"labels": list(dm.schema.names("label"))} if hasattr(dm, "schema") else {}
        return super().from_data(dm, **{**named, **options})

    def latent(self, batch: CellBatch) -> Tensor:
        """Draw the type y, then z (n, k) given y, and observe the labels."""
        y_n = pyro.sample("y", self.prior.labels(), infer={"enumerate": "parallel"})
        z_nk = pyro.sample("z", self.prior.component(y_n))
        known_n, class_n = self._observed_labels(batch)
        label = dist.Categorical(self.confusion[y_n]).mask(known_n)
        pyro.sample("label", label, obs=class_n)
        return z_nk

    def default_elbo(self) -> ELBO:
        """TraceEnum_ELBO, which sums y out."""
        return TraceEnum_ELBO(max_plate_nesting=1)

    @pyro_method
    def label_probability(self, batch: CellBatch, latents: dict[str, Tensor], given_labels: bool = False) -> Tensor:
        """P(y = c | z), (n, labels): the probability of each cell type given the cell's counts.

        Parameters
        ----------
        batch
            the cells.
        latents
            values of the latent sites.
        given_labels
            whether to condition on the cell's own label too, if it has one: P(y = c | z, label).
        """
        y_c1 = torch.arange(len(self.confusion), device=self.class_of.device).unsqueeze(-1)
        log_joint_cn = self.prior.labels().log_prob(y_c1) + self.prior.component(y_c1).log_prob(latents["z"])
        if given_labels:
            known_n, class_n = self._observed_labels(batch)
            log_joint_cn = log_joint_cn + self.confusion[:, class_n].log() * known_n
        return torch.softmax(log_joint_cn, 0).T

    def _observed_labels(self, batch: CellBatch) -> tuple[Tensor, Tensor]:
        """Mask (n,) of the cells with a label, and their class (n,), 0 for cells without one."""
        if batch.label is None:
            raise ValueError("SCANVI needs the label of each cell: use CellDataModule(adata, label_key=...)")
        class_n = self.class_of[batch.label]
        return class_n >= 0, class_n.clamp(min=0)


def _check_labels(labels: Sequence[str], known: Sequence[str], unlabeled: str | None, sizes: Sizes) -> None:
    if isinstance(labels, str) or len(labels) != sizes.n_labels:
        raise ValueError(f"labels must name the {sizes.n_labels} levels of the label; got {labels!r}")
    if len(known) < 2:
        raise ValueError(
            f"labels must have two or more known levels; got {list(known)}: pass label_key= to CellDataModule"
        )
    if unlabeled is not None and unlabeled not in labels:
        raise ValueError(
            f"unlabeled_category must be a level of the label, such as {list(labels)[:10]}; got {unlabeled!r}: pass "
            "the level of the cells without a label, or None if all cells have one"
        )
