"""Names on every axis: missing, twice or differing in blanks; lists of names in every container."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import pyro_omics as po

N, T = 24, 3
X = np.random.default_rng(0).poisson(2.0, (N, 6)).astype(np.float32)


def cells(**obs):
    adata = AnnData(X.copy(), obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(N)]))
    adata.var_names = [f"g{i}" for i in range(6)]
    y = np.random.default_rng(1).poisson(5.0, (N, T))
    adata.obsm["y"] = pd.DataFrame(y, index=adata.obs_names, columns=["CD3", "CD4", "CD8"])
    return adata


def screen():
    return po.simulate.del_library(cycles=(3, 3, 3), depth=3.0)[0]


WRONG = {
    "missing": (np.nan, "must have no missing names; got 1 missing"),
    "none": (None, "must have no missing names; got 1 missing"),
    "empty": (" ", "must have no missing names; got the empty name ' '"),
    "twice": ("{}", r"must be unique.*; got '\w+\W?[\w-]*' twice"),
    "blank at the end": ("{} ", "must differ in more than blanks; got"),
    "no-break space": ("\u00a0{}", "must differ in more than blanks; got"),
    "zero width": ("{}\u200b", "must differ in more than blanks; got"),
}


def with_wrong(names, value):
    """The second name replaced by a wrong one, which may be made of the first."""
    names = [str(name) for name in names]
    names[1] = value.format(names[0]) if isinstance(value, str) else value
    return pd.Index(names, dtype=object)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("make", "module"), [(cells, po.CellDataModule), (screen, po.DELDataModule)])
@pytest.mark.parametrize("axis", ["obs_names", "var_names"])
@pytest.mark.filterwarnings("ignore")
def test_names_of_rows_and_columns(axis, make, module, wrong):
    value, message = WRONG[wrong]
    adata = make()
    setattr(adata, axis, with_wrong(getattr(adata, axis), value))
    with pytest.raises(ValueError, match=f"adata.{axis} {message}"):
        module(adata)


@pytest.mark.parametrize("wrong", ["empty", "blank at the end", "no-break space"])
@pytest.mark.parametrize("as_category", [False, True])
@pytest.mark.parametrize("argument", ["batch_key", "label_key", "categorical_keys"])
def test_levels(argument, as_category, wrong):
    value, message = WRONG[wrong]
    levels = np.resize(["d1", "d2"], N).astype(object)
    levels[1] = value.format("d1")
    adata = cells(donor=pd.Categorical(levels) if as_category else levels)
    with pytest.raises(ValueError, match=f"the levels of {argument}='donor' {message}"):
        po.CellDataModule(adata, **{argument: ["donor"] if argument.endswith("keys") else "donor"})


@pytest.mark.parametrize("wrong", WRONG)
def test_proteins(wrong):
    value, message = WRONG[wrong]
    adata = cells()
    adata.obsm["y"].columns = with_wrong(adata.obsm["y"].columns, value)
    with pytest.raises(ValueError, match=rf"the columns of adata.obsm\['y'\] \(protein_obsm_key\) {message}"):
        po.CellDataModule(adata, protein_obsm_key="y")


def test_a_protein_that_differs_in_blanks_is_not_taken_as_not_measured():
    schema = po.CellDataModule(cells(), protein_obsm_key="y").schema
    other = cells()
    other.obsm["y"] = other.obsm["y"].rename(columns={"CD4": "CD4 "})
    other.var_names = [*other.var_names[:-1], "g5 "]
    dm = po.CellDataModule(other, protein_obsm_key="y")
    with pytest.raises(ValueError, match=r"genes are not in adata.var_names.*\('g5' is 'g5 ' here, which differs in"):
        dm.aligned(schema)
    other.var_names = cells().var_names
    with pytest.raises(ValueError, match=r"the model's protein 'CD4' is 'CD4 ' in these data, which differs in blanks"):
        po.CellDataModule(other, protein_obsm_key="y").aligned(schema)


@pytest.mark.parametrize("wrong", ["empty", "blank at the end", "zero width"])
@pytest.mark.parametrize("as_category", [False, True])
def test_building_blocks(as_category, wrong):
    value, message = WRONG[wrong]
    adata = screen()
    blocks = adata.obs["B"].astype(object).to_numpy()
    blocks[4] = value.format(blocks[0])
    adata.obs["B"] = pd.Categorical(blocks) if as_category else blocks
    with pytest.raises(ValueError, match=rf"the building blocks in adata.obs\['B'\] {message}"):
        po.DELDataModule(adata)


def test_building_blocks_that_are_one_as_text():
    adata = screen()
    names = {"A1": 1, "A2": "1", "A3": "3"}
    adata.obs["A"] = pd.Categorical([names[a] for a in adata.obs["A"]], categories=[1, "1", "3"])
    with pytest.raises(ValueError, match=r"the building blocks in adata.obs\['A'\] must be unique; got '1' twice"):
        po.DELDataModule(adata)


@pytest.mark.parametrize("condition", ["target ", "Target", "TARGET\u00a0"])
def test_conditions_that_are_hardly_others(condition):
    """Such a selection was left out without a word."""
    adata = screen()
    adata.var["condition"] = [condition, *adata.var["condition"].astype(str)[1:]]
    with pytest.raises(ValueError, match=r"must be written alike; got .* for the selection 'target_1'.*write 'target'"):
        po.DELDataModule(adata)
    adata.var["condition"] = ["", *adata.var["condition"].astype(str)[1:]]
    with pytest.raises(ValueError, match=r"must not be missing; got NaN for the selections \['target_1'\]"):
        po.DELDataModule(adata)


def test_two_columns_of_conditions_are_refused():
    adata = screen()
    adata.var = pd.concat([adata.var, adata.var], axis=1)
    with pytest.raises(ValueError, match=r'adata.var must have one column "condition"; got several'):
        po.DELDataModule(adata)


def test_columns_of_one_name_and_of_another_blank():
    adata = cells(donor=np.resize(["d1", "d2"], N))
    adata.obs = adata.obs.rename(columns={"donor": "donor "})
    with pytest.raises(ValueError, match=r"batch_key must be a column .*got 'donor': 'donor ' differs in blanks"):
        po.CellDataModule(adata, batch_key="donor")
    adata.obs = pd.concat([adata.obs, adata.obs], axis=1)
    with pytest.raises(ValueError, match=r"batch_key='donor ' must be one column of adata.obs; got 2"):
        po.CellDataModule(adata, batch_key="donor ")


# Lists of names -------------------------------------------------------------------------------------------------------


def arrow():
    return pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'pyro-omics[chem]'")


LISTS = {
    "tuple": tuple,
    "index": pd.Index,
    "array": np.array,
    "objects": lambda names: np.array(names, dtype=object),
    "series": lambda names: pd.Series(names, index=[5, 3]),
    "categorical": pd.Categorical,
    "strings": lambda names: pd.array(names, dtype="string"),
    "generator": lambda names: (name for name in names),
    "keys": lambda names: dict.fromkeys(names).keys(),
    "arrow": lambda names: arrow().array(names),
    "chunks": lambda names: arrow().chunked_array([names[:1], names[1:]]),
}


@pytest.mark.parametrize("container", LISTS)
def test_lists_in_every_container(container):
    make = LISTS[container]
    adata = cells(kit=np.resize(["k1", "k2"], N), donor=np.resize(["d1", "d2", "d3"], N), a=np.arange(N), b=1.0)
    dm = po.CellDataModule(adata, categorical_keys=make(["donor", "kit"]), continuous_keys=make(["b", "a"]))
    assert dm.schema.categorical == ("donor", "kit") and dm.schema.continuous == ("b", "a")
    assert all(type(name) is str for name in dm.schema.categorical)
    library = screen()
    names = ["target_2", "target_1"]
    assert po.DELDataModule(library, selections=make(names)).schema.targets == tuple(names)
    library.obs["y1"], library.obs["y2"] = 0.25, 0.5
    library.obs["B and C"] = library.obs["B"].astype(str) + library.obs["C"].astype(str)
    dm = po.DELDataModule(library, synthon_keys=make(["B and C", "A"]), yield_keys=make(["y2", "y1"]))
    assert dm.schema.cycles == ("B and C", "A") and dm.data.fields["yields"][0].tolist() == [0.5, 0.25]


def test_sets_where_order_does_not_matter():
    adata = cells(kit=np.resize(["k1", "k2"], N), donor=np.resize(["d1", "d2", "d3"], N))
    assert po.CellDataModule(adata, categorical_keys={"donor", "kit"}).schema.categorical == ("kit", "donor")
    assert po.DELDataModule(screen(), selections={"target_2", "target_1"}).schema.targets == ("target_1", "target_2")
    for argument in ("synthon_keys", "yield_keys"):
        with pytest.raises(ValueError, match=f"{argument} must be in order, and a set has none.*: pass a list"):
            po.DELDataModule(screen(), **{argument: {"A", "B", "C"}})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("donor", r"must be a list of names; got the text 'donor': pass \['donor'\]"),
        (3, "must be a list of names; got a int, 3"),
        (None, "must be a list of names; got a NoneType"),
        ({"donor": 1}, "must be a list of names; got a dict"),
        (np.array([["donor"]]), "must be a list of names; got a ndarray"),
        (["donor", np.nan], "must be a list of names; got nan among them"),
        ([True, False], "must be a list of names; got True among them"),
        (["donor", "donor"], "must have each name once; got 'donor' twice"),
        (["donor", "donor "], "must differ in more than blanks; got 'donor' and 'donor '"),
        ([("donor",)], r"must be a list of names; got \('donor',\) among them"),
    ],
)
def test_what_is_no_list_of_names(names, message):
    with pytest.raises(ValueError, match=f"categorical_keys {message}"):
        po.CellDataModule(cells(donor=np.resize(["d1", "d2"], N)), categorical_keys=names)


MASK = np.array([True, False, True, True, False, True])
GENES = [f"g{i}" for i in range(6)]
SHUFFLED = [3, 0, 5, 1, 4, 2]


@pytest.mark.parametrize(
    "mask",
    [
        pd.Series(MASK, index=GENES),
        pd.Series(MASK, index=GENES).iloc[SHUFFLED],
        pd.Series(MASK),
        pd.array(MASK, dtype="boolean"),
        MASK.astype(object),
        (flag for flag in MASK),
    ],
)
def test_a_mask_of_genes_is_matched_by_name(mask):
    assert po.CellDataModule(cells(), gene_mask=mask).schema.genes == ("g0", "g2", "g3", "g5")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (pd.Series(MASK, index=[f"h{i}" for i in range(6)]), r"must have adata.var_names as its index.*got \['h0'"),
        (pd.Series(MASK, index=[f"{g} " for g in GENES]), "must have .*; got 'g0 ' for 'g0', which differ in blanks"),
        (pd.Series(MASK[:5], index=GENES[:5]), "must have adata.var_names as its index"),
        (pd.array([None, *MASK[1:]], dtype="boolean"), "must have no missing booleans; got <NA>"),
        (GENES[:2], "must be 6 booleans, one for each gene"),
    ],
)
def test_a_mask_of_other_genes_is_refused(mask, message):
    with pytest.raises(ValueError, match=f"gene_mask {message}"):
        po.CellDataModule(cells(), gene_mask=mask)


CELLS = [f"c{i}" for i in range(N)]
MEASURED = np.ones((N, T), bool)
MEASURED[2, 1] = MEASURED[5] = False
FRAME = pd.DataFrame(MEASURED, index=CELLS, columns=["CD3", "CD4", "CD8"])


@pytest.mark.parametrize(
    "mask",
    [FRAME, FRAME[["CD8", "CD3", "CD4"]].sample(frac=1, random_state=0), FRAME.astype("boolean"), MEASURED.tolist()],
)
def test_a_mask_of_proteins_is_matched_by_name(mask):
    measured = po.CellDataModule(cells(), protein_obsm_key="y", protein_mask=mask).data.fields["measured"]
    assert np.array_equal(measured, MEASURED)
    each = po.CellDataModule(cells(), protein_obsm_key="y", protein_mask=FRAME["CD3"].iloc[::-1]).data.fields[
        "measured"
    ]
    assert (~each.numpy()).sum(1).tolist() == [3 * (i == 5) for i in range(N)]


@pytest.mark.parametrize(
    "indices", [pd.Series([1, 5]), pd.Index([1, 5]), {5, 1}, iter([1, 5]), pd.array([1, 5], "Int64")]
)
def test_positions_in_every_container(indices):
    assert po.CellDataModule(cells(), validation_indices=indices).rows("validation").tolist() == [1, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_size": "0.1"}, r"validation_size must be a share .*; got '0.1'"),
        ({"seed": "a"}, "seed must be an integer of at least 0; got 'a'"),
        ({"num_workers": 1.5}, "num_workers must be an integer of at least 0; got 1.5"),
        ({"validation_indices": 3}, "validation_indices must be integer positions of rows; got 3"),
        ({"validation_indices": [1, None]}, "validation_indices must be integer positions of rows; got object"),
        ({"validation_indices": [[1]]}, r"validation_indices must be a list of positions; got the shape \(1, 1\)"),
        ({"layer": 3}, "layer must be the name of one column or layer; got 3"),
    ],
)
def test_a_wrong_type_names_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        po.CellDataModule(cells(), **options)
