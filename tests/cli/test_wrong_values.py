"""A wrong name of a class or of an argument is one sentence with the nearest right one."""

import pytest

from pyro_omics import cli


def said(capsys, *options):
    with pytest.raises(SystemExit) as end:
        cli.main(["fit", *options])
    assert end.value.code == 2
    return capsys.readouterr().err.partition("error: ")[2].strip()


CELLS = "--data.adata=cells.h5ad"
PRIOR = "--model.model.prior"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--data: pyro_omics.CellDataModule needs adata: pass --data.adata=..., or name it in the configuration"),
        ([CELLS, "--data.batch_ky=a"],
         "--data: pyro_omics.CellDataModule has no argument 'batch_ky': did you mean 'batch_key'?"),
        ([CELLS, "--model.model=SCVIX"],
         "--model.model must be the name of a class; got 'SCVIX': did you mean 'SCVI'?"),
        ([CELLS, "--model.model.n_latnt=3"],
         "--model.model: pyro_omics.SCVI has no argument 'n_latnt': did you mean 'n_latent'?"),
        ([CELLS, f"{PRIOR}=VampPrio"],
         f"{PRIOR} must be the name of a class; got 'VampPrio': did you mean 'VampPrior'?"),
        ([CELLS, f"{PRIOR}=pyro_omics.priors.VampPrio"],
         f"{PRIOR} must be the name of a class; got 'pyro_omics.priors.VampPrio': did you mean 'VampPrior'?"),
        ([CELLS, f"{PRIOR}=VampPrior", f"{PRIOR}.n_component=3"],
         f"{PRIOR}: pyro_omics.priors.VampPrior has no argument 'n_component': did you mean 'n_components'?"),
        ([CELLS, "--model.guide=Amortized", "--model.guide.rest=xyz"],
         "--model.guide.rest must be the name of a class; got 'xyz': write its whole path, of module and class"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_explained(capsys, options, message):
    assert said(capsys, *options) == message


def test_other_errors_are_as_they_were(capsys):
    message = said(capsys, CELLS, "--model.model.n_latent=abc")
    assert "Expected a <class 'int'>. Got value: abc" in message
