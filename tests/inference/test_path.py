"""How much of this package a training step and a posterior query pass through.

Counted are the files of the package in which a function is entered (``sys.setprofile``, in the thread that trains), and
the calls: for a step, from the start of a minibatch in the Trainer to its end, the backward pass and the optimizer
included, at the third step and full KL weight, when everything that is made or compiled once is there (KL warm-up adds
`inference/kl_warmup.py`); for a query, the call on a `Posterior` that is made. Bodies of comprehensions are no calls.

``make trace`` prints both. The limits may fall and not rise: each file is one more that a reader must open.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytorch_lightning as pl
from helpers import counts, quiet_trainer, small

import pyro_omics as po

ROOT = Path(po.__file__).parent
STEP, QUERY = 19, 23


@contextmanager
def profiled():
    """Calls into the package inside the block: (file, function) -> number."""
    found = Counter()

    def count(frame, event, _):
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(f"{ROOT}/") and not frame.f_code.co_name.endswith(("comp>", "genexpr>")):
            found[path.removeprefix(f"{ROOT}/"), frame.f_code.co_qualname] += 1

    sys.setprofile(count)
    try:
        yield found
    finally:
        sys.setprofile(None)


class ThirdStep(pl.Callback):
    """Profiles the third training step."""

    def on_train_batch_start(self, trainer, svi, batch, batch_idx):
        if batch_idx == 2:
            self.block = profiled()
            self.calls = self.block.__enter__()

    def on_train_batch_end(self, trainer, svi, outputs, batch, batch_idx):
        if batch_idx == 2:
            self.block.__exit__(None, None, None)


@pytest.fixture(scope="module")
def trained():
    dm = po.CellDataModule(counts(), batch_size=15, validation_size=0.0)
    svi, step = po.SVIModule(small(dm), kl_warmup_epochs=0), ThirdStep()
    quiet_trainer(1, callbacks=[step]).fit(svi, dm)
    return svi, dm, step.calls


def files_outside_kernels(what, calls):
    """The number of files outside kernels/, of which, with those in it, a table is printed."""
    by_file = {}
    for (path, name), number in calls.items():
        by_file.setdefault(path, Counter())[name] += number
    outside = [path for path in by_file if not path.startswith("kernels/")]
    print(f"\n{what}: {len(by_file)} files, {len(outside)} outside kernels/, {sum(calls.values())} calls")
    for path, names in sorted(by_file.items()):
        print(f"  {path}: " + ", ".join(f"{name} {number}" for name, number in names.most_common()))
    return len(outside)


def test_a_training_step(trained):
    *_, calls = trained
    assert calls["inference/svi_module.py", "SVIModule.training_step"] == 1
    assert calls["models/single_cell/scvi.py", "SCVI.forward"] == 1
    assert files_outside_kernels("A training step of SCVI", calls) <= STEP


def test_a_query(trained):
    svi, dm, _ = trained
    posterior = po.Posterior(svi, dm)
    posterior.normalized_expression(num_samples=2)
    with profiled() as calls:
        posterior.normalized_expression(num_samples=2)
    assert calls["models/single_cell/scvi.py", "SCVI.normalized_expression"] == 2
    assert files_outside_kernels("Posterior.normalized_expression of SCVI", calls) <= QUERY
