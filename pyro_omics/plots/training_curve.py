"""Figure of the ELBO by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure


def training_curve(history: Mapping[str, Sequence[float]]) -> Figure:
    """ELBO per observation (nats) by epoch.

    Parameters
    ----------
    history
        name of a curve (``"train_elbo"``, ``"val_elbo"``) -> its value after each epoch, in nats per observation.

    Raises
    ------
    TypeError
        For anything else, such as a module or a Trainer, which do not keep these values.
    """
    if not isinstance(history, Mapping):
        raise TypeError(
            f"history must be a mapping of names to values by epoch; got a {type(history).__name__}: record them by "
            "history = report.History(), pl.Trainer(callbacks=[history]), and pass history.curves"
        )
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    names = {"train_elbo": "training", "val_elbo": "validation"}
    for name, values in history.items():
        axes.plot(np.arange(1, len(values) + 1), values, label=names.get(name, name))
    later = [value for values in history.values() for value in values[min(2, len(values) - 1) :]]
    if later:
        # The first epochs are far below the rest, and would flatten the curve.
        margin = 0.1 * (max(later) - min(later)) + 1e-6
        axes.set_ylim(min(later) - margin, max(later) + margin)
    axes.set(xlabel="epoch", ylabel="ELBO per observation (nats; higher is better)")
    axes.legend(frameon=False)
    return figure
