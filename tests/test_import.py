"""Importing the package leaves the state of the session as it is, in a process of its own."""

import subprocess
import sys

import pytest

SNAPSHOT = """
import logging, os, random, sys, warnings
import anndata, matplotlib, numba, numpy, pandas, pooch, pyro, scipy.sparse, torch, tqdm, xarray
import pyro.infer.autoguide, pyro.distributions as dist, pytorch_lightning
from torch.distributions.kl import _KL_REGISTRY

def snapshot():
    return {
        "pyro.settings": dict(pyro.settings.get()),
        "param store": sorted(pyro.get_param_store().keys()),
        "dtype": torch.get_default_dtype(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads(), numba.config.NUMBA_NUM_THREADS),
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": str(numpy.random.get_state()),
        "Python's generator": random.getstate(),
        "validation": (torch.distributions.Distribution._validate_args, dist.Normal._validate_args),
        "constraints": torch.distributions.Distribution.__dict__["arg_constraints"],
        "gradients": torch.is_grad_enabled(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "matplotlib": (matplotlib.rcParams._get("backend"), dict(matplotlib.rcParams.copy())),
        "numpy's errors": numpy.geterr(),
        "logging": (list(logging.root.handlers), logging.root.level),
        "pandas": {name: pandas.get_option(name) for name in ("mode.copy_on_write", "display.max_columns")},
        "path": list(sys.path),
        "hooks": (sys.excepthook, sys.displayhook),
        "kl": {pair: kl for pair, kl in _KL_REGISTRY.items() if not pair[0].__module__.startswith("pyro_omics")},
    }

before = snapshot()
"""

COMPARE = """
import pyro_omics
pyro_omics.SCVI  # the names are imported at the first use
after = snapshot()
changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
assert not changed, changed
"""

FIT = """
import pyro, pyro.distributions as dist, torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

pyro.settings.set(module_local_params=LOCAL)
torch.manual_seed(0)
y = torch.randn(50) + 3

def model(y):
    scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(m, scale), obs=y)

def guide(y):
    loc = pyro.param("loc", torch.tensor(0.0))
    pyro.sample("m", dist.Normal(loc, 0.1))

def run(guide, names):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(y) for _ in range(200)]
    assert set(pyro.get_param_store().keys()) == names, list(pyro.get_param_store().keys())
    pyro.clear_param_store()
    return losses
"""


def _run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_changes_no_state_of_the_session():
    _run(SNAPSHOT + COMPARE)


@pytest.mark.parametrize("local", [False, True])
def test_an_unrelated_fit_is_the_same_after_the_import(local):
    fits = """
before = run(guide, {"scale", "loc"})
if not LOCAL:  # Pyro itself has no parameters of autoguides in its store under the other setting
    before += run(AutoNormal(model), {"scale", "AutoNormal.locs.m", "AutoNormal.scales.m"})
import pyro_omics as po
po.SCVI
assert pyro.settings.get("module_local_params") is LOCAL
torch.manual_seed(0)
torch.randn(50)
after = run(guide, {"scale", "loc"})
if not LOCAL:
    after += run(AutoNormal(model), {"scale", "AutoNormal.locs.m", "AutoNormal.scales.m"})
assert before == after
# Nor does a fit of this package leave anything behind.
import pytorch_lightning as pl
dm = po.CellDataModule(po.simulate.cells(n_obs=40, n_genes=8)[0], batch_size=20)
svi = po.SVIModule(po.SCVI.from_data(dm, n_latent=2))
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
pl.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(svi, dm)
po.Posterior(svi, dm).latent()
po.SVIModule(po.SCVI.from_data(dm, n_latent=2, prior=po.priors.FlowPrior()), guide=po.guides.AmortizedFlow)
import zuko
assert "arg_constraints" not in vars(zuko.distributions.NormalizingFlow)
assert pyro.settings.get("module_local_params") is LOCAL
assert not list(pyro.get_param_store().keys())
"""
    _run((FIT + fits).replace("LOCAL", str(local)))


def test_the_import_and_the_first_help_are_quick():
    """Neither waits for torch, Lightning or the like, which are imported at the first use of a name."""
    heavy = "import sys; found = {'torch', 'pyro', 'pytorch_lightning', 'anndata', 'numba'} & set(sys.modules)"
    _run(f"import pyro_omics; {heavy}; assert not found, found")
    program = (
        "from pyro_omics.cli import main\ntry: main(['--help'])\nexcept SystemExit as e: assert e.code == 0\n"
        f"{heavy}; assert not found, found"
    )
    assert "pyro-omics COMMAND --help" in _run(program)


def test_public_names_are_there_however_they_are_asked_for():
    _run("from pyro_omics import *; SCVI, priors, Posterior")
    _run("from pyro_omics import SCVI, __version__; import pyro_omics as po; assert set(po.__all__) <= set(dir(po))")
    _run("import pyro_omics as po; assert po.plots.umap and po.simulate and not hasattr(po, 'nothing')")
