"""Networks: encoders, decoders, residual networks, attention and classifiers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_omics.kernels.dispatch import to_float32
from pyro_omics.layers.basic import BatchNorm, Dropout, LayerNorm, Linear, SparseLinear
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.serialization.arguments import RecordsArguments


def _concatenate(x: Tensor, cov: Tensor | None) -> Tensor:
    if cov is None:
        return x
    return torch.cat([x, cov.expand(*x.shape[:-1], cov.shape[-1])], -1)


def _last_input_width(n_in: int, n_hidden: int, n_layers: int, n_cov: int, skip: bool) -> int:
    """Input width of the last Linear of an encoder or decoder."""
    return (n_hidden if n_layers else n_in) + (n_in + n_cov if skip else 0)


class FCLayers(FastPyroModule, RecordsArguments):
    """Fully connected layers of Linear, norm, ReLU and Dropout; covariates are concatenated to each layer's input.

    Parameters
    ----------
    n_in, n_hidden
        width of the input and of each layer.
    n_layers
        number of layers.
    n_cov
        width of the covariates.
    dropout
        probability that a hidden unit is dropped in training.
    norm
        class of the normalisation, called with the width: `BatchNorm`, `LayerNorm`, or None for no normalisation.
    first
        class of the first Linear: `SparseLinear` for mostly zero inputs.

    Source: scVI (Lopez et al. 2018, Supplementary Note 1), scvi-tools' published defaults.
    """

    def __init__(
        self,
        n_in: int,
        n_hidden: int = 128,
        n_layers: int = 1,
        n_cov: int = 0,
        dropout: float = 0.0,
        norm: type[nn.Module] | None = BatchNorm,
        first: type[nn.Module] = Linear,
    ) -> None:
        super().__init__()
        if not (norm is None or callable(norm)):
            raise TypeError(f"norm must be a class, layers.BatchNorm or layers.LayerNorm, or None; got {norm!r}")
        widths = [n_in] + [n_hidden] * n_layers
        classes = itertools.chain([first], itertools.repeat(Linear))
        layers = [cls(a + n_cov, b) for (a, b), cls in zip(itertools.pairwise(widths), classes, strict=False)]
        self.linear = PyroModule[nn.ModuleList](layers)
        self.norm = None if norm is None else PyroModule[nn.ModuleList]([norm(n_hidden) for _ in range(n_layers)])
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, cov: Tensor | None = None) -> Tensor:
        """Map (..., n, n_in) to (..., n, n_hidden)."""
        norms = self.norm
        for i, linear in enumerate(self.linear):
            x = linear(_concatenate(x, cov))
            if norms is not None:
                x = norms[i](x)
            x = self.dropout(torch.relu(x))
        return x


class Encoder(FastPyroModule, RecordsArguments):
    """Location and scale of a Normal: hidden layers, then one Linear for each; variance = exp(.) + 1e-4.

    Parameters
    ----------
    n_in, n_out
        width of the input and number of coordinates of the Normal.
    n_hidden, n_layers, n_cov, dropout, norm
        see `FCLayers`.
    skip
        whether the last Linear also gets the input and the covariates, beside the output of the hidden layers.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_hidden: int = 128,
        n_layers: int = 1,
        n_cov: int = 0,
        dropout: float = 0.1,
        norm: type[nn.Module] | None = BatchNorm,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.hidden = FCLayers(n_in, n_hidden, n_layers, n_cov, dropout, norm, first=SparseLinear)
        self.skip = skip
        width = _last_input_width(n_in, n_hidden, n_layers, n_cov, skip)
        self.loc = Linear(width, n_out)
        self.log_var = Linear(width, n_out)

    def forward(self, x: Tensor, cov: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map (n, n_in) to the location and the scale (standard deviation), (n, n_out) each."""
        h = self.hidden(x, cov)
        if self.skip:
            h = _concatenate(torch.cat([h, x], -1), cov)
        return to_float32(self.loc(h)), (to_float32(self.log_var(h)).exp() + 1e-4).sqrt()


class Decoder(FastPyroModule, RecordsArguments):
    """Hidden layers, then one Linear for each named head.

    Parameters
    ----------
    n_in
        width of the latent.
    heads
        name -> width of each output, e.g. ``{"rho": n_genes, "dropout_logits": n_genes}``.
    n_hidden, n_layers, n_cov, dropout, norm
        see `FCLayers`.
    skip
        whether the heads also get the latent and the covariates, beside the output of the hidden layers.
    """

    def __init__(
        self,
        n_in: int,
        heads: Mapping[str, int],
        n_hidden: int = 128,
        n_layers: int = 1,
        n_cov: int = 0,
        dropout: float = 0.0,
        norm: type[nn.Module] | None = BatchNorm,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.hidden = FCLayers(n_in, n_hidden, n_layers, n_cov, dropout, norm)
        self.skip = skip
        width = _last_input_width(n_in, n_hidden, n_layers, n_cov, skip)
        self.heads = PyroModule[nn.ModuleDict]({name: Linear(width, n_out) for name, n_out in heads.items()})

    def forward(self, z: Tensor, cov: Tensor | None = None) -> dict[str, Tensor]:
        """Map (..., n, n_in) to a dict of unconstrained outputs, (..., n, width of the head)."""
        h = self.hidden(z, cov)
        if self.skip:
            h = _concatenate(torch.cat([h, z], -1), cov)
        return {name: to_float32(head(h)) for name, head in self.heads.items()}

    @torch.no_grad()
    def start_at(self, outputs: Mapping[str, Tensor]) -> None:
        """Initialize heads near ``outputs``, name -> (width of the head,), through their biases.

        Other names, and heads whose bias is latent, are left out.
        """
        for name, output in outputs.items():
            bias = self.heads[name]._parameters.get("bias") if name in self.heads else None
            if bias is not None:
                bias.copy_(output)


class Branches(FastPyroModule, RecordsArguments):
    """Decoders with hidden layers of their own, whose outputs are merged into one dict.

    Parameters
    ----------
    decoders
        modules (z, covariates) -> dict; each output must have another name.
    """

    def __init__(self, *decoders: nn.Module) -> None:
        super().__init__()
        self.decoders = PyroModule[nn.ModuleList](decoders)

    def forward(self, z: Tensor, cov: Tensor | None = None) -> dict[str, Tensor]:
        """Map (..., n, n_in) to the dict of all outputs."""
        return {name: out for decoder in self.decoders for name, out in decoder(z, cov).items()}

    def start_at(self, outputs: Mapping[str, Tensor]) -> None:
        """Initialize the decoders' heads near ``outputs``; see `start_outputs`."""
        for decoder in self.decoders:
            start_outputs(decoder, outputs)


def start_outputs(network: nn.Module, outputs: Mapping[str, Tensor]) -> None:
    """Initialize a network's outputs near these values, name -> (width,), before training.

    A network of your own takes part by a method ``start_at(outputs)``, as `Decoder` has it; one without is left as it
    is.
    """
    start_at = getattr(network, "start_at", None)
    if start_at is not None:
        start_at(outputs)


class ResidualMLP(FastPyroModule, RecordsArguments):
    """A Linear with ReLU to the hidden width, blocks x + dropout(relu(norm(Linear(x)))), and a Linear to the output.

    Parameters
    ----------
    n_in, n_out
        width of the input and of the output.
    n_hidden, n_blocks
        width and number of the residual blocks.
    dropout
        probability that a hidden unit is dropped in training.
    norm
        `BatchNorm`, `LayerNorm`, or None.

    Source: He et al. 2016, CVPR (residual connections).
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_hidden: int = 128,
        n_blocks: int = 2,
        dropout: float = 0.1,
        norm: type[nn.Module] | None = LayerNorm,
    ) -> None:
        super().__init__()
        self.first = SparseLinear(n_in, n_hidden)
        self.blocks = PyroModule[nn.ModuleList](
            [FCLayers(n_hidden, n_hidden, dropout=dropout, norm=norm) for _ in range(n_blocks)]
        )
        self.last = Linear(n_hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        h = torch.relu(self.first(x))
        for block in self.blocks:
            h = h + block(h)
        return to_float32(self.last(h))


class GatedAttention(FastPyroModule, RecordsArguments):
    r"""Weighted mean of a set, with weights computed from the features h_p of each member.

    .. math:: a_p \propto \exp(w^\top (\tanh(V h_p) \odot \mathrm{sigmoid}(U h_p)))

    Parameters
    ----------
    n_in
        width of a member's features.
    n_hidden
        width of V h and U h.

    Source: Ilse et al. 2018, ICML, equation 9.
    """

    def __init__(self, n_in: int, n_hidden: int = 64) -> None:
        super().__init__()
        self.value = Linear(n_in, n_hidden)
        self.gate = Linear(n_in, n_hidden)
        self.score = Linear(n_hidden, 1)

    def weights(self, h: Tensor) -> Tensor:
        """Weights (..., p) of members (..., p, n_in); they sum to 1."""
        # The members are the layers' rows: latent weights have leading dimensions that must not meet the set's.
        members = h.flatten(-3, -2) if h.ndim > 2 else h
        gated = torch.tanh(self.value(members)) * torch.sigmoid(self.gate(members))
        score = self.score(gated).squeeze(-1)
        return torch.softmax(score.unflatten(-1, h.shape[-3:-1]) if h.ndim > 2 else score, -1)

    def forward(self, h: Tensor) -> Tensor:
        """Map (..., p, n_in) to the weighted mean (..., n_in)."""
        return (self.weights(h).unsqueeze(-1) * h).sum(-2)


class Classifier(FastPyroModule, RecordsArguments):
    """Logits of classes from a latent, whose gradient is reversed, so that the latent learns to hide the class.

    Parameters
    ----------
    n_in, n_classes
        width of the latent, number of classes.
    n_hidden, n_layers, norm
        see `FCLayers`.

    Source: Ganin et al. 2016, JMLR 17(59) (the gradient reversal layer).
    """

    def __init__(
        self,
        n_in: int,
        n_classes: int,
        n_hidden: int = 32,
        n_layers: int = 2,
        norm: type[nn.Module] | None = BatchNorm,
    ) -> None:
        super().__init__()
        self.hidden = FCLayers(n_in, n_hidden, n_layers, norm=norm)
        self.logits = Linear(n_hidden if n_layers else n_in, n_classes)

    def forward(self, z: Tensor) -> Tensor:
        """Map (..., n, n_in) to (..., n, n_classes)."""
        return self.logits(self.hidden(_Reversal.apply(z)))


class _Reversal(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -1."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient
