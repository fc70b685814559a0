"""The figure of a training."""

import pytest
from helpers import counts, quiet_trainer, small

import pyro_omics as po


def test_what_holds_no_history_is_refused_and_the_mend_works():
    dm = po.CellDataModule(counts(40), batch_size=16)
    svi, history = po.SVIModule(small(dm)), po.report.History()
    trainer = quiet_trainer(3, callbacks=[history])
    trainer.fit(svi, dm)
    for value in (svi, trainer):
        with pytest.raises(TypeError, match=r"history must be a mapping .*report.History\(\).*pass history.curves"):
            po.plots.training_curve(value)
    lines = po.plots.training_curve(history.curves).axes[0].get_lines()
    assert [len(line.get_xdata()) for line in lines] == [3, 3]
