"""Checks that the loss is finite, and that everything that it depends on is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_omics.batch import RowBatch
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.testing.required import require


def check_loss(svi: SVIModule, batch: RowBatch) -> None:
    """Check in one training step that loss and gradients are finite, and that the optimizer has every parameter."""
    svi.train()
    before = len(list(svi.parameters()))
    loss = svi(batch)
    require(bool(torch.isfinite(loss)), f"the loss is {loss.item()} on a batch of {len(batch.index)} rows")
    _check_leaves(svi, loss)
    require(loss.requires_grad, "the loss does not depend on any parameter")
    loss.backward()
    without = [name for name, p in svi.named_parameters() if p.requires_grad and p.grad is None]
    require(not without, f"no gradient reaches {without}: they are unused, or read outside the loss")
    bad = [name for name, p in svi.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    require(not bad, f"the gradients of {bad} are not finite")
    svi.zero_grad()
    require(len(list(svi.parameters())) == before, "a training step made parameters that no optimizer has")
    optimizer = svi.make_optimizer(svi.parameters())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in svi.named_parameters() if id(p) not in held]
    require(not missing, f"the optimizer does not have {missing}")


def check_gradients(svi: SVIModule, batches: Sequence[Any]) -> None:
    """Check that every parameter has a gradient other than 0 in some entry, on at least one of the batches."""
    svi.train()
    untrained = {name: p for name, p in svi.named_parameters() if p.requires_grad and p.numel()}
    for batch in batches:
        loss = svi(batch)
        _check_leaves(svi, loss)
        loss.backward()
        untrained = {name: p for name, p in untrained.items() if p.grad is None or not p.grad.any()}
        svi.zero_grad()
    require(
        not untrained,
        f"the gradient of {list(untrained)} is exactly 0 on {len(batches)} batches, so that they will never be "
        "trained: are they detached, multiplied by 0, or behind a unit that is never active?",
    )


def _check_leaves(svi: SVIModule, loss: Tensor) -> None:
    """Check that only parameters of the modules, which the optimizer gets, have a gradient."""
    known = {id(p) for p in svi.parameters()}
    unregistered = [leaf for leaf in _leaves(loss) if id(leaf) not in known]
    names = [_path(svi, leaf) or f"a tensor of shape {tuple(leaf.shape)}" for leaf in unregistered]
    require(
        not unregistered,
        f"the loss has a gradient in {names}, which no optimizer sees: make it a torch.nn.Parameter that is an "
        "attribute of its module, or an entry of a torch.nn.ParameterList or ParameterDict, not of a list or dict",
    )


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """The tensors that ``loss.backward()`` would give a gradient to."""
    if loss.is_leaf and loss.requires_grad:
        yield loss
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        nodes.extend(before for before, _ in node.next_functions)


def _path(svi: SVIModule, leaf: Tensor) -> str | None:
    """Dotted path of the module attribute that holds a tensor, directly or in a list or dict; None if there is none."""
    for path, module in (*svi.model.named_modules(prefix="model"), *svi.guide.named_modules(prefix="guide")):
        for name, value in vars(module).items():
            if not isinstance(value, nn.Module) and _holds(value, leaf):
                return f"{path}.{name}"
    return None


def _holds(value: Any, leaf: Tensor) -> bool:
    if isinstance(value, dict):
        return any(_holds(item, leaf) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_holds(item, leaf) for item in value)
    return value is leaf
