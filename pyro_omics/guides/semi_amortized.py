"""`SemiAmortized`: an encoder, whose posterior is refined for each row in eval mode."""

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
    r"""An encoder's Normal, refined for each row in eval mode.

    .. math:: q(z_n \mid x_n) = \mathrm{Normal}(\mu(x_n) + \delta_n, \mathrm{diag}(\sigma(x_n) e^{\rho_n})^2)

    In training, delta and rho are 0: the guide trains as `Amortized` does, at the same cost. In eval mode (validation,
    `Posterior`) `Refinement` optimizes them for each row, with model and encoder frozen. Model and encoder are thus
    those of amortized inference, and only the gap between the encoder's Normal and the best Normal (the amortization
    gap) is closed afterwards. Kim et al. refine inside each training step and train through the refinement, which costs
    n_steps backward passes per step.

    An encoder that takes the value of another site (totalVI's background, given z) still does: delta and rho are added
    to its output. The offsets of a refined batch are kept for the draws that follow.

    Parameters
    ----------
    model, rest
        as in `Amortized`.
    n_steps
        number of Adam steps for each batch; a step costs about as much as a training step.
    lr
        learning rate of the first step.

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
        """Refined offsets of the encoder's locations and log scales; none in training."""
        return {} if self.training else self.refinement(self, batch)
