"""`SemiAmortized`: an encoder in training, and each row refined from there where it is scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.nn import PyroModule

from pyro_omics.batch import RowBatch
from pyro_omics.guides.amortized import Amortized
from pyro_omics.guides.base import Offsets
from pyro_omics.guides.guided_model import GuidedModel
from pyro_omics.guides.refinement import Refinement


class SemiAmortized(Amortized):
    r"""An encoder's Normal, refined for each row where rows are scored.

    .. math:: q(z_n \mid x_n) = \mathrm{Normal}(\mu(x_n) + \delta_n, \mathrm{diag}(\sigma(x_n) e^{\rho_n})^2)

    In training delta and rho are 0: the guide trains as `Amortized` does, at its price. In eval mode (validation,
    `Posterior`) they are sought for each row by `Refinement`, with model and encoder frozen. So model and encoder are
    those of amortized inference, and what the encoder leaves between its Normal and the best one is closed afterwards
    (the amortization gap). Kim et al. refine inside each training step and train through the refinement, which costs
    n_steps backward passes in each.

    A site whose encoder sees another's value (totalVI's background, given z) keeps that: delta and rho add to what the
    encoder makes of it. A refined batch is remembered for the draws that follow.

    Parameters
    ----------
    model, rest
        as in `Amortized`.
    n_steps
        steps of Adam for each row; each costs about a training step.
    lr
        its learning rate at the first step.

    Source: Kim et al. 2018, arXiv:1802.02550 (semi-amortized variational autoencoders); Cremer et al. 2018,
    arXiv:1801.03558 (the amortization gap).
    """

    def __init__(
        self,
        model: GuidedModel,
        rest: Callable[[Callable[..., Any]], PyroModule] | None = None,
        n_steps: int = 20,
        lr: float = 0.1,
    ) -> None:
        super().__init__(model, rest)
        self.refinement = Refinement(n_steps, lr)

    def offsets(self, batch: RowBatch) -> Offsets:
        """What the rows of a batch add to the encoder's locations and log scales: nothing in training."""
        return {} if self.training else self.refinement(self, batch)
