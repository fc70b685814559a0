"""What holds of every layout of DEL tables: a file in the layouts' folder that is listed there is tested here."""

import pkgutil

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad

import pyro_omics as po
from pyro_omics.cli import main
from pyro_omics.data.dna_encoded.tables import layouts
from pyro_omics.data.dna_encoded.tables.conditions import KNOWN
from pyro_omics.data.dna_encoded.tables.layouts import LAYOUTS
from pyro_omics.data.dna_encoded.tables.reading import read_del
from pyro_omics.data.dna_encoded.tables.recognition import recognise

pytestmark = [
    pytest.mark.filterwarnings("ignore:the column .* looks like reads by its name"),
    pytest.mark.filterwarnings("ignore:there is one target selection"),
]


def example(layout):
    """The layout's example, and the conditions that its columns' names do not say."""
    table = pd.DataFrame(layout.example)
    unknown = [one.column for one in layout.selections(list(table.columns), "umi") if one.condition is None]
    return table, dict.fromkeys(unknown, "target")


def test_each_file_of_the_folder_is_listed_under_its_name():
    files = {module.name for module in pkgutil.iter_modules(layouts.__path__)} - {"base"}
    assert files == set(LAYOUTS)
    assert all(name == layout.name for name, layout in LAYOUTS.items())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_its_example_is_recognised(layout):
    table, conditions = example(layout)
    assert [name for name, one in LAYOUTS.items() if one.fits(table.columns)] == [layout.name]
    found = recognise(table, None, conditions, None, "umi")
    assert found.layout == layout.name
    assert found.ignored_counts == []
    assert len(found.synthons) >= 2
    if layout.id_column is not None:
        assert found.id == layout.id_column


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_its_example_is_read(layout):
    table, conditions = example(layout)
    adata = read_del(table, conditions=conditions, complete=False)
    assert adata.to_df().astype(int).to_dict("list") == {key: [*value] for key, value in layout.example_counts.items()}
    assert set(adata.var["condition"]) <= set(KNOWN)
    pd.testing.assert_frame_equal(read_del(table, layout.name, conditions, complete=False).to_df(), adata.to_df())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_its_example_survives_files_and_becomes_minibatches(layout, tmp_path):
    table, conditions = example(layout)
    truth = read_del(table, conditions=conditions, complete=False)
    table.to_csv(tmp_path / "counts.csv", index=False)
    again = read_del(tmp_path / "counts.csv", conditions=conditions, complete=False)
    again.write_h5ad(tmp_path / "counts.h5ad")
    for found in (again, read_h5ad(tmp_path / "counts.h5ad")):
        pd.testing.assert_frame_equal(found.to_df(), truth.to_df())
        assert found.obs.astype(str).equals(truth.obs.astype(str))
        assert found.var["condition"].astype(str).tolist() == truth.var["condition"].tolist()
    dm = po.DELDataModule(tmp_path / "counts.h5ad")
    targets = (truth.var["condition"] == "target").to_numpy()
    np.testing.assert_array_equal(dm.data[range(truth.n_obs)].x, truth.X.toarray()[:, targets])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_table_of_another_form_is_not_taken_for_it(layout):
    table = pd.DataFrame({"A": ["a", "b"], "B": ["c", "d"], "x": [1, 2]})
    assert not layout.fits(table.columns)
    if not layout.is_general:
        with pytest.raises(ValueError, match=f"layout='{layout.name}' needs the columns "):
            read_del(table, layout.name, {"x": "target"})


def test_the_command_line_has_the_layouts_as_choices(tmp_path, capsys):
    pd.DataFrame(LAYOUTS["plain"].example).to_csv(tmp_path / "counts.csv", index=False)
    with pytest.raises(SystemExit):
        main(["del", str(tmp_path / "counts.csv"), "--layout", "unheard-of"])
    said = capsys.readouterr().err
    assert "unheard-of" in said and all(f"'{name}'" in said for name in LAYOUTS)
