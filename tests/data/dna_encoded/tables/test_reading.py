"""Tables of DEL counts: published layouts, checks of counts and names, the full grid, fingerprints, real sets."""

import logging
import math
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad

import pyro_omics as po
from pyro_omics.data.dna_encoded.fingerprints import add_fingerprints, fingerprints
from pyro_omics.data.dna_encoded.full_grid import complete_grid
from pyro_omics.data.dna_encoded.tables.reading import read_del

DELDENOISER = ["preselection_readcount", "postselection_readcount", "yields", "fullcycles"]


def given(*names):
    """The folder of real data, where it has these files."""
    folder = os.environ.get("PYRO_OMICS_DATA")
    lacking = [name for name in names if not folder or not (Path(folder) / name).is_file()]
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)} in the folder PYRO_OMICS_DATA")
    return Path(folder)


def plain(**columns):
    """Four compounds of 2 x 2, one of them without a count, so that nothing is to be completed."""
    frame = {"A": ["a1", "a1", "a2", "a2"], "B": ["b1", "b2", "b1", "b2"], "target_1": [3, 0, 7, 1]}
    return pd.DataFrame({**frame, "control_1": [1, 0, 0, 2], **columns})


def deldock():
    return pd.DataFrame(
        {
            "cycle2": ["x", "y", "x"],
            "cycle1": ["p", "p", "q"],
            "ca9_exp_r2": [4, 5, 6],
            "ca9_beads_r1": [7, 0, 9],
            "ca9_exp_r1": [1, 0, 3],
            "smiles": ["C", "CC", "CCC"],
        }
    )


def kindel():
    return pd.DataFrame(
        {
            "smiles": ["C", "CC"],
            "smiles_a": ["C", "CCO"],
            "smiles_b": ["N", "N"],
            "molecule_hash": ["h1", "h0"],
            "seq_target_1": [1, 2],
            "seq_target_2": [3.0, 4.0],
            "seq_matrix_1": [5, 6],
            "seq_load": [7, 0],
        }
    )


def deli():
    return pd.DataFrame(
        {
            "DEL_ID": ["A2-B1", "A1-B1", "A1-B2"],
            "raw_s1": [30, 12, 0],
            "corrected_s1": [3, 1, 0],
            "raw_s2": [0, 12, 24],
            "corrected_s2": [0, 1, 1],
            "SMILES_A": ["C", "N", "N"],
            "ID_A": ["A2", "A1", "A1"],
            "SMILES_B": ["O", "O", "F"],
            "ID_B": ["B1", "B1", "B2"],
            "SMILES": ["CO", "NO", "NF"],
            "ID_A_right": ["A2", "A1", "A1"],
            "A_raw_s1": [30, 12, 12],
            "A_corrected_s1": [3, 1, 1],
            "A-B_corrected_s1": [3, 1, 0],
            "AB_corrected_s2": [0, 1, 1],
        }
    )


def lanes():
    return pd.DataFrame(
        {"cycle_1_lane": [1, 1, 2, 10], "cycle_2_lane": [1, 2, 1, 1], "readcount": [5, 0, 8, 1]},
    )


def held(adata):
    """What an AnnData says: conditions with replicates, and counts as a frame."""
    return list(zip(adata.var["condition"], adata.var["replicate"], strict=True)), adata.to_df()


# Layouts --------------------------------------------------------------------------------------------------------------


def test_deldock():
    selections, counts = held(adata := read_del(deldock(), complete=False))
    assert selections == [("target", "2"), ("control", "1"), ("target", "1")]
    assert counts.columns.tolist() == ["ca9_exp_r2", "ca9_beads_r1", "ca9_exp_r1"]
    assert counts.index.tolist() == ["p-x", "p-y", "q-x"]
    assert counts.to_numpy().tolist() == [[4, 7, 1], [5, 0, 0], [6, 9, 3]]
    assert adata.obs.astype(str).to_dict("list") == {
        "A": ["p", "p", "q"],
        "B": ["x", "y", "x"],
        "smiles": ["C", "CC", "CCC"],
    }
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == np.float32


def test_kindel():
    selections, counts = held(adata := read_del(kindel()))
    assert selections == [("target", "1"), ("target", "2"), ("control", "1"), ("pre-selection", "1")]
    assert counts.index.tolist() == ["h1", "h0"]
    assert counts.to_numpy().tolist() == [[1, 3, 5, 7], [2, 4, 6, 0]]
    assert adata.obs.astype(str).to_dict("list") == {"A": ["C", "CCO"], "B": ["N", "N"], "smiles": ["C", "CC"]}
    assert read_del(kindel().assign(molecule_hash=[12, 7])).obs_names.tolist() == ["12", "7"]
    assert read_del(kindel().assign(bb1=["b", "c"], bb2=["d", "d"])).obs["A"].tolist() == ["b", "c"]


def test_deli_takes_umi_counts_of_compounds_and_no_sums():
    selections, counts = held(adata := read_del(deli(), complete=False))
    assert selections == [("target", "1"), ("target", "2")]
    assert counts.columns.tolist() == ["s1", "s2"]
    assert counts.index.tolist() == ["A2-B1", "A1-B1", "A1-B2"]
    assert counts.to_numpy().tolist() == [[3, 0], [1, 1], [0, 1]]
    assert adata.obs["A"].tolist() == ["A2", "A1", "A1"]
    assert adata.obs["smiles"].tolist() == ["CO", "NO", "NF"]


def test_deli_raw_reads_come_with_a_warning():
    with pytest.warns(UserWarning, match="not UMI counts.*not Poisson"):
        adata = read_del(deli(), complete=False, counts="raw")
    assert adata.to_df().to_numpy().tolist() == [[30, 0], [12, 12], [0, 24]]
    assert adata.var_names.tolist() == ["s1", "s2"]


def test_deli_conditions_by_column_or_name():
    conditions = {"corrected_s2": "control"}
    assert held(read_del(deli(), conditions=conditions))[0] == [("target", "1"), ("control", "1")]
    assert held(read_del(deli(), conditions={"s2": "control"}))[0] == [("target", "1"), ("control", "1")]
    with pytest.raises(ValueError, match=r"must have columns of counts as keys, 'corrected_s1'.*; got 'raw_s2'"):
        read_del(deli(), conditions={"raw_s2": "control"})
    with pytest.raises(ValueError, match=r"no column begins with 'corrected_'.*counts='raw'"):
        read_del(deli().drop(columns=["corrected_s1", "corrected_s2"]))


def test_deldenoiser_lanes_are_names_in_natural_order():
    with pytest.warns(UserWarning, match="'readcount' looks like reads"):
        adata = read_del(lanes(), conditions={"readcount": "pre-selection"})
    assert held(adata)[0] == [("pre-selection", "1")]
    assert adata.obs_names.tolist() == ["1-1", "1-2", "2-1", "10-1"]
    assert adata.obs["A"].cat.categories.tolist() == ["1", "2", "10"]
    assert adata.X.toarray()[:, 0].tolist() == [5, 0, 8, 1]


def test_plain_form_of_our_own():
    frame = plain(**{"pre-selection_1": [1, 2, 3, 4], "competitor_1": [0, 0, 1, 0], "target_protein": "x", "mw": 300.5})
    selections, counts = held(read_del(frame))
    assert selections == [("target", "1"), ("control", "1"), ("pre-selection", "1"), ("competitor", "1")]
    assert counts.loc["a2-b1"].tolist() == [7, 0, 3, 1]


def test_plain_by_conditions_and_synthon_keys():
    frame = plain().rename(columns={"A": "left", "B": "right", "target_1": "t", "control_1": "c"})
    frame["t2"] = [9, 9, 9, 9]
    conditions = {"c": "control", "t": "target", "t2": "target"}
    selections, counts = held(adata := read_del(frame, conditions=conditions, synthon_keys=["left", "right"]))
    assert selections == [("control", "1"), ("target", "1"), ("target", "2")]
    assert counts["t"].tolist() == [3, 0, 7, 1]
    assert adata.obs.columns.tolist() == ["left", "right"]
    assert adata.obs_names[1] == "a1-b2"


def test_columns_that_conditions_leave_out_are_said():
    frame = plain(mw=[300.5, 1, 2, 3]).rename(columns={"target_1": "pull", "control_1": "beads"})
    with pytest.warns(UserWarning, match="the columns 'beads' look like counts, and are left out") as caught:
        assert list(read_del(frame, conditions={"pull": "target"}).var_names) == ["pull"]
    assert len(caught) == 1
    with pytest.raises(ValueError, match=r"must have columns of counts as keys, 'pull', 'beads', 'mw'.*; got 'S9'"):
        read_del(frame, conditions={"S9": "target"})


def test_columns_of_a_plain_table_that_no_name_explains_are_said():
    frame = plain(NTC_1=[1, 0, 2, 0], NTC_2=[0, 0, 1, 1], ID=[4, 3, 2, 1], smiles=[None] * 4, notes=[np.nan] * 4)
    with pytest.warns(UserWarning, match="look like counts") as caught:
        assert read_del(frame).var_names.tolist() == ["target_1", "control_1"]
    (said,) = (str(one.message) for one in caught)
    assert said.startswith("the columns 'NTC_1', 'NTC_2' look like counts, and are left out")
    assert "conditions={'NTC_1': 'target or control', ...}" in said
    assert caught[0].filename == __file__
    read_del(frame, conditions={"NTC_1": "control", "NTC_2": "control"})
    with pytest.warns(UserWarning, match="the columns 'NTC_2' look like counts"):
        read_del(frame, conditions={"NTC_1": "control"})


def test_selections_of_deli_that_are_hardly_replicates_are_said():
    names = {"corrected_s1": "corrected_ca9_1", "corrected_s2": "corrected_ca9_2"}
    frame = deli().rename(columns=names).assign(corrected_ntc=[1, 0, 0])
    with pytest.warns(UserWarning, match="taken as targets") as caught:
        assert (read_del(frame).var["condition"] == "target").all()
    (said,) = (str(one.message) for one in caught)
    assert said.startswith("the selections 'ca9_1', 'ca9_2', 'ntc' are all taken as targets")
    assert "pass the condition of each, conditions={'ca9_1': 'target or control', ...}" in said
    # Silent where the caller says which is no target, or that all are; not where it says it of some.
    for told in ({"ntc": "control"}, {"corrected_ntc": "control"}, dict.fromkeys(["ca9_1", "ca9_2", "ntc"], "target")):
        read_del(frame, conditions=told)
    with pytest.warns(UserWarning, match="are all taken as targets"):
        read_del(frame, conditions={"ca9_1": "target", "ca9_2": "target"})


@pytest.mark.parametrize("ending", ["1", "_rep1", "-R01", " replicate 1"])
def test_names_that_differ_by_a_replicate_are_of_one_target(ending):
    names = {f"corrected_s{k}": f"corrected_53BP1{ending.replace('1', str(k))}" for k in (1, 2)}
    assert read_del(deli().rename(columns=names)).n_vars == 2


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("Target_1", "Control_1"), [("target", "1"), ("control", "1")]),
        (("TARGET-2", "control r3"), [("target", "2"), ("control", "3")]),
        (("target", "control"), [("target", "1"), ("control", "1")]),
        (("Target", "PreSelection"), [("target", "1"), ("pre-selection", "1")]),
        (("pre_selection_1", "Competitor_rep2"), [("pre-selection", "1"), ("competitor", "2")]),
        (("exp_r1", "beads_r1"), [("target", "1"), ("control", "1")]),
        (("CA9_Exp_R2", "CA9_Beads_R1"), [("target", "2"), ("control", "1")]),
    ],
)
def test_case_separators_and_names_without_a_number(columns, expected):
    frame = plain().rename(columns=dict(zip(["target_1", "control_1"], columns, strict=True)))
    adata = read_del(frame)
    assert held(adata)[0] == expected
    assert adata.var_names.tolist() == list(columns)


def test_a_column_target_of_text_is_no_selection():
    assert read_del(deldock().assign(target="ca9"), complete=False).n_vars == 3


def test_conditions_go_before_the_layout_and_add_columns():
    frame = deldock().assign(naive=[1, 1, 1])
    selections, counts = held(
        read_del(frame, conditions={"ca9_exp_r2": "competitor", "naive": "pre-selection"}, complete=False)
    )
    assert selections == [("competitor", "2"), ("control", "1"), ("target", "1"), ("pre-selection", "1")]
    assert counts["naive"].tolist() == [1, 1, 1]


def test_replicates_are_distinct_within_a_condition():
    frame = deldock().assign(other_beads_r1=[0, 1, 2])
    assert held(read_del(frame, complete=False))[0][1:] == [("control", "1"), ("target", "1"), ("control", "2")]


def test_two_proteins_are_no_replicates_of_one_target():
    frame = deldock().assign(hrp_exp_r1=[0, 1, 2])
    with pytest.raises(ValueError, match=r"several proteins, ca9, hrp.*'hrp_exp_r1': 'competitor'"):
        read_del(frame)
    selections, _ = held(read_del(frame, conditions={"hrp_exp_r1": "competitor"}, complete=False))
    assert selections[-1] == ("competitor", "1")


BLOCKS = [("ID_A", "ID_B"), ("cycle_1", "cycle_2"), ("Cycle 1", "Cycle 2"), ("bb1_id", "bb2_id"), ("BB1", "BB2"),
          ("BB_A", "BB_B"), ("codon1", "codon_2"), ("smiles_a", "smiles_b")]  # fmt: skip


@pytest.mark.parametrize("columns", [*BLOCKS, ("BB", None)])
def test_building_blocks_are_recognised(columns):
    frame = plain().rename(columns=dict(zip("AB", columns, strict=True)))
    if None in columns:
        with pytest.raises(ValueError, match=r"no column names the compounds.*synthon_keys.*are 'BB'"):
            read_del(frame)
    else:
        assert read_del(frame).obs["B"].tolist() == ["b1", "b2", "b1", "b2"]


def test_layout_that_is_not_clear():
    both = kindel().assign(target_1=[1, 2])
    with pytest.raises(
        ValueError, match=r"several layouts fit the columns: kindel, plain; pass one, such as layout='kindel'"
    ):
        read_del(both)
    with pytest.warns(UserWarning, match="the columns 'seq_target_1', .* look like counts, and are left out"):
        assert read_del(both, layout="plain").var_names.tolist() == ["target_1"]
    assert read_del(both, layout="kindel").n_vars == 4
    with pytest.raises(ValueError, match=r"layout='deli' needs the columns 'ID_A'.*; got 'smiles'"):
        read_del(both, layout="deli")
    with pytest.warns(UserWarning, match="the columns 'raw_x', 'readcount' look like counts"):
        assert read_del(plain(raw_x=0, readcount=0)).n_vars == 2  # neither DELi's, without ID_A, nor deldenoiser's
    with pytest.raises(ValueError, match=r"layout must be one of None, 'deldock'.*; got 'delly'"):
        read_del(both, layout="delly")
    with pytest.raises(ValueError, match=r"counts must be one of 'umi', 'raw'; got 'reads'"):
        read_del(both, counts="reads")


def test_no_layout_says_what_was_looked_for_and_what_looks_like_counts():
    frame = plain(mw=[300.5, 1, 2, 3], change=[-1, 0, 1, 2]).rename(columns={"target_1": "pull", "control_1": "none"})
    with pytest.raises(ValueError, match="no layout fits the columns 'A', 'B', 'pull'") as error:
        read_del(frame)
    assert "kindel: 'seq_target_1'" in str(error.value)
    assert str(error.value).endswith(
        "Columns that look like counts: 'pull', 'none'; pass the condition of each, "
        "conditions={'pull': 'target or control', ...}"
    )
    with pytest.raises(ValueError, match=r"layout='deldenoiser'.*conditions=\{'readcount': 'target or control'\}"):
        read_del(lanes())
    with pytest.raises(ValueError, match="No column holds whole numbers"):
        read_del(plain()[["A", "B"]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditions": {"tarjet_1": "target"}}, "must have columns of counts as keys, 'target_1'.*; got 'tarjet_1'"),
        ({"conditions": {"target_1": "Target"}}, r"\{'target_1': 'Target'\}: .*misspelt: pass 'target'"),
        ({"conditions": {"target_1": "preselection"}}, "pass 'pre-selection'"),
        ({"conditions": {"target_1": "traget"}}, "pass 'target'"),
        ({"conditions": {"control_1": "controls"}}, "pass 'control'"),
        ({"conditions": {"target_1": "pre_selection"}}, "pass 'pre-selection'"),
        ({"conditions": {"target_1": "Competitors"}}, "pass 'competitor'"),
        ({"conditions": {"target_1": "target or control"}}, "must be one of the two: pass 'target' or 'control'"),
        ({"conditions": {"target_1": ""}}, "pass one of 'target', 'control', 'pre-selection'"),
        (
            {"conditions": {"B": "target"}, "synthon_keys": ["A", "B"]},
            "either building blocks or counts; got 'B' among both",
        ),
        ({"synthon_keys": ["A", "C"]}, "synthon_keys must be columns of the table, 'A', 'B'.*; got 'C'"),
        ({"synthon_keys": "A"}, r"pass \['A'\]"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        read_del(plain(), **options)


def test_columns_that_are_no_building_blocks():
    by_letter = plain().rename(columns={"target_1": "C"})
    assert read_del(by_letter, conditions={"C": "target"}).obs.columns.tolist() == ["A", "B"]
    alone = deldock().assign(A=1)  # one cycle is no library
    assert read_del(alone, complete=False).obs_names[0] == "p-x"
    assert read_del(deli().assign(A="x", B="y"), complete=False).obs["A"].tolist() == ["A2", "A1", "A1"]


def test_building_blocks_that_are_not_recognised_are_asked_for():
    frame = plain(compound_id=list("wxyz"), mw=300.5).rename(columns={"A": "amine", "B": "acid"})
    with pytest.warns(UserWarning, match="no building blocks are recognised") as caught:
        assert read_del(frame).obs.empty
    assert str(caught[0].message).endswith("synthon_keys=[...]; columns of text are 'amine', 'acid'")
    read_del(frame, synthon_keys=["amine", "acid"])
    with pytest.warns(UserWarning, match="no other column is text"):
        read_del(frame.drop(columns=["amine", "acid"]))


def test_building_blocks_named_go_before_their_structures():
    frame = plain(smiles_a=list("CNOS"), smiles_b=list("FFII"))
    assert read_del(frame).obs["A"].tolist() == ["a1", "a1", "a2", "a2"]


def test_a_selection_called_by_a_letter_is_no_cycle():
    frame = plain(C=["c1", "c2", "c2", "c1"], D=[4, 0, 2, 9])
    with pytest.warns(UserWarning, match="the columns 'D' look like counts.*synthon_keys"):
        assert read_del(frame, complete=False).obs.columns.tolist() == ["A", "B", "C"]
    of_deldock = frame.rename(columns={"target_1": "ca9_exp_r1", "control_1": "ca9_beads_r1"})
    with pytest.warns(UserWarning, match="the columns 'D' look like counts"):
        assert read_del(of_deldock, complete=False).obs.columns.tolist() == ["A", "B", "C"]
    asked = read_del(frame, synthon_keys=list("ABCD"), complete=False)
    assert asked.obs["D"].tolist() == ["4", "0", "2", "9"]
    # All by number, or one of two: the cycles' numbers of building blocks.
    assert read_del(plain(A=[1, 1, 2, 2])).obs.columns.tolist() == ["A", "B"]
    assert read_del(plain(A=[1, 1, 2, 2], B=[1, 2, 1, 2])).obs.columns.tolist() == ["A", "B"]


def test_cycles_are_in_the_order_of_their_numbers():
    frame = pd.DataFrame({f"cycle{k}": [f"b{k}"] for k in (10, 2, 1)} | {"target_1": [1]})
    assert read_del(frame).obs_names.tolist() == ["b1-b2-b10"]


def test_two_families_of_building_blocks_are_asked_about():
    with pytest.raises(
        ValueError, match=r"\['A', 'B'\] or \['bb1', 'bb2'\]: pass one list, such as synthon_keys=\['A', 'B'\]"
    ):
        read_del(plain(bb1=list("wxyz"), bb2=list("wxyz")))


# Files and frames -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "separator"),
    [("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t"), ("t.txt", "\t"), ("t.csv.gz", ","), ("t.txt.gz", ";")],
)
def test_text_files(tmp_path, name, separator):
    path = tmp_path / name
    plain().to_csv(path, sep=separator, index=False)
    for one in (path, str(path)):
        assert read_del(one).to_df().equals(read_del(plain()).to_df())


def test_parquet(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'pyro-omics[chem]'")
    path = tmp_path / "t.parquet"
    plain().to_parquet(path)
    assert read_del(path).to_df().equals(read_del(plain()).to_df())
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match="could not be read as a table"):
        read_del(path)

    def no_engine(path):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pd, "read_parquet", no_engine)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        read_del(path)


def test_names_in_a_file_stay_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("A,B,smiles,target_1\n001,Na,,3\n1,Na,NA,0\n001,1e5,N,2\n")
    adata = read_del(path)
    assert adata.obs_names.tolist() == ["001-Na", "1-Na", "001-1e5"]
    assert adata.obs["smiles"].isna().tolist() == [True, True, False]


def test_the_table_of_an_anndata_comes_back(tmp_path):
    first = read_del(deli(), conditions={"s2": "control"}, complete=True)
    first.var_names = ["target_1", "control_1"]
    path = tmp_path / "t.csv"
    first.to_df().join(first.obs).to_csv(path)
    for again in (read_del(path), read_del(first.to_df().join(first.obs))):
        assert again.to_df().equals(first.to_df())
        assert again.obs.equals(first.obs)
        assert again.var.equals(first.var)


def test_numbers_of_rows_are_no_names(tmp_path):
    path = tmp_path / "t.csv"
    plain().to_csv(path)
    assert read_del(path).obs_names.tolist() == ["a1-b1", "a1-b2", "a2-b1", "a2-b2"]
    assert read_del(plain().set_axis([7, 3, 5, 1])).obs_names[0] == "a1-b1"


def test_a_sum_over_groups_can_be_read_as_it_is():
    summed = pd.concat([plain(), plain()]).groupby(["A", "B"]).sum()
    assert read_del(summed).to_df()["target_1"].tolist() == [6, 0, 14, 2]
    assert read_del(plain().set_index("A", drop=False)).obs_names[2] == "a2-b1"
    named = plain(compound_id=list("wxyz")).set_axis(list("abcd"))
    assert read_del(named).obs_names.tolist() == list("wxyz")
    assert read_del(kindel().set_index("molecule_hash")).obs_names.tolist() == ["h1", "h0"]


def test_a_file_of_shifted_columns_is_refused(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("A\tB\ttarget_1\tcontrol_1\n1\t5\t6\t1\t2\n2\t5\t7\t3\t4\n")
    with pytest.raises(ValueError, match="more fields than its header has names"):
        read_del(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.xlsx",
            b"",
            r"must be a .csv, .tsv, .txt file \(also .gz, .bz2, .xz, .zip\), a .parquet file or a.*; got '.*t.xlsx'",
        ),
        ("t.csv", b"", "could not be read as a table"),
        ("t.csv", b"\xff\xfe,\xff\n", "could not be read as a table"),
        ("t.csv.gz", b"A,B,target_1\n", "the table must have rows"),
        ("t.csv", b"A,B,target_1\n", "the table must have rows"),
        ("t.csv", b"A,B,target_1,target_1\na,b,1,2\n", "distinct columns; got several called 'target_1'"),
    ],
)
def test_files_that_are_no_tables(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_del(path)


def test_what_is_no_table():
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv' is not a file"):
        read_del("nowhere.csv")
    with pytest.raises(TypeError, match="a path or a DataFrame; got a dict"):
        read_del({})
    with pytest.raises(ValueError, match="distinct columns; got several called 'A'"):
        read_del(plain().rename(columns={"B": "A"}))


# Counts and names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-2, r"row 2 \(counted from 0\) has -2, which is negative"),
        (0.5, r"row 2 .* has 0.5, which is a fraction"),
        (np.nan, "row 2 .* has nan, which is missing; 1 such rows: fill in 0"),
        (np.inf, "row 2 .* has inf, which is infinite"),
        ("many", "row 2 .* has 'many', which is not a number"),
        (2**24 + 2, "row 2 .* has 16777218, which is above 2.24 = 16,777,216"),
    ],
)
def test_what_are_no_counts(value, message):
    with pytest.raises(ValueError, match=f"counts of 'control_1': {message}"):
        read_del(plain(control_1=pd.Series([1, 0, value, 2])))


def test_what_are_no_counts_in_a_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("A,B,target_1\na,b,3\na,c,\n")
    with pytest.raises(ValueError, match=r"counts of 'target_1': row 1 .* is missing"):
        read_del(path)
    path.write_text("A,B,target_1\na,b,3\na,c,-\n")
    with pytest.raises(ValueError, match=r"counts of 'target_1': row 1 .* has '-', which is not a number"):
        read_del(path)


def test_whole_numbers_of_any_type_are_counts():
    for values in (["3", "0", "7", "1"], pd.array([3, 0, 7, 1], dtype="Int64"), [3.0, 0.0, 7.0, 1.0]):
        assert read_del(plain(target_1=values)).to_df()["target_1"].tolist() == [3, 0, 7, 1]


@pytest.mark.parametrize("name", ["raw", "target_reads", "ReadCount", "read_count_1", "Reads 2"])
def test_a_name_of_reads_is_warned_of(name):
    with pytest.warns(UserWarning, match=f"'{name}' looks like reads"):
        read_del(plain().rename(columns={"target_1": name}), conditions={name: "target"})


@pytest.mark.parametrize("name", ["readout", "spread", "strawberry", "threads"])
def test_other_names_are_not(name):
    read_del(plain().rename(columns={"target_1": name}), conditions={name: "target"})


def test_raw_counts_of_other_layouts_are_warned_of():
    with pytest.warns(UserWarning, match="counts='raw': these are reads") as caught:
        assert read_del(plain(), counts="raw").to_df()["target_1"].tolist() == [3, 0, 7, 1]
    assert caught[0].filename == __file__


def test_compounds_that_occur_twice():
    with pytest.raises(ValueError, match=r"1 row.s. repeat the building blocks.*such as 'a1-b1'") as error:
        read_del(plain(B=["b1", "b1", "b1", "b2"]))
    # The mend, as it stands in the message, does it.
    mend = "df.groupby(['A', 'B'], as_index=False)[['target_1', 'control_1']].sum()"
    assert mend in str(error.value)
    summed = eval(mend, {"df": plain(B=["b1", "b1", "b1", "b2"])})
    assert read_del(summed, complete=False).to_df()["target_1"].tolist() == [3, 7, 1]
    with pytest.raises(ValueError, match=r"1 row.s. repeat the compound in 'molecule_hash'.*such as 'h1': .*groupby"):
        read_del(kindel().assign(molecule_hash="h1"))
    with pytest.raises(ValueError, match="repeat the joined names of the building blocks of another, such as 'a-b-c'"):
        read_del(pd.DataFrame({"A": ["a-b", "a"], "B": ["c", "b-c"], "target_1": [1, 2]}))


def test_names_that_are_missing():
    with pytest.raises(ValueError, match=r"'B' has 2 missing names, the first in row 1 \(counted from 0\)"):
        read_del(plain(B=["b1", None, "", "b2"]))
    with pytest.raises(ValueError, match="'molecule_hash' must name every compound; got none in row 1"):
        read_del(kindel().assign(molecule_hash=["h", None]))


def test_numbered_building_blocks_are_whole():
    assert read_del(plain(A=[1.0, 1.0, 2.0, 2.0])).obs_names[2] == "2-b1"


def test_compounds_without_building_blocks_are_called_by_their_smiles():
    with pytest.warns(UserWarning, match="no building blocks are recognised"):
        adata = read_del(deldock().drop(columns=["cycle1", "cycle2"]))
    assert adata.obs_names.tolist() == ["C", "CC", "CCC"]
    with pytest.raises(ValueError, match="complete=True needs the building blocks"):
        read_del(deldock().drop(columns=["cycle1", "cycle2"]), complete=True, synthon_keys=[])


# The full grid --------------------------------------------------------------------------------------------------------


def library(seed=0, shape=(3, 12, 4), share=0.4):
    """Part of a grid, in random order, with names that sort otherwise as text than by their numbers."""
    rng = np.random.default_rng(seed)
    at = np.flatnonzero(rng.random(math.prod(shape)) < share)
    at = rng.permutation(at)
    blocks = zip("ABC", np.unravel_index(at, shape), strict=True)
    obs = pd.DataFrame({key: [f"{key}{i + 1}" for i in index] for key, index in blocks})
    obs["weight"] = rng.random(len(at))
    obs["n"] = rng.integers(1, 9, len(at))
    obs.index = obs["A"] + "-" + obs["B"] + "-" + obs["C"]
    counts = rng.poisson(1.0, (len(at), 2)).astype(np.float32)
    return AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame({"condition": ["target", "control"]}, ["t", "c"]))


@pytest.mark.parametrize("stored", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray])
def test_complete_grid_is_the_table_reindexed(stored):
    adata = library()
    adata.X = stored(adata.X)
    adata.uns["screen"] = "first"
    full = complete_grid(adata)
    assert full.uns["screen"] == "first"
    every = [f"A{a}-B{b}-C{c}" for a in (1, 2, 3) for b in range(1, 13) for c in range(1, 5)]
    expected = adata.to_df().reindex(every).fillna(0.0)
    assert full.to_df().equals(expected)
    assert isinstance(full.X, sp.csr_matrix)
    assert (full.X.dtype, full.X.nnz) == (np.float32, np.count_nonzero(adata.to_df()))
    obs = adata.obs.reindex(every)
    assert (full.obs[["A", "B", "C"]].agg("-".join, axis=1) == every).all()
    assert full.obs["weight"].equals(obs["weight"])
    assert full.obs["n"].equals(obs["n"])
    assert full.obs["B"].cat.categories.tolist() == [f"B{i}" for i in range(1, 13)]
    assert full.var.equals(adata.var)


def test_ids_of_observed_compounds_are_kept():
    adata = library()
    adata.obs_names = [f"compound {i}" for i in range(adata.n_obs)]
    full = complete_grid(adata)
    seen = full.obs_names.str.startswith("compound")
    assert seen.sum() == adata.n_obs
    assert full[adata.obs_names].to_df().equals(adata.to_df())
    assert (full.obs_names[~seen] == full.obs.loc[~seen, ["A", "B", "C"]].agg("-".join, axis=1)).all()


def test_a_complete_grid_is_put_in_order():
    full = complete_grid(library())
    shuffled = full[np.random.default_rng(1).permutation(full.n_obs)].copy()
    assert complete_grid(shuffled).to_df().equals(full.to_df())


def test_complete_grid_writes_and_reads(tmp_path):
    full = read_del(deli(), complete=True)
    full.copy().write_h5ad(tmp_path / "t.h5ad")
    again = read_h5ad(tmp_path / "t.h5ad")
    assert again.to_df().equals(full.to_df())
    assert again.obs["smiles"].isna().tolist() == full.obs["smiles"].isna().tolist() == [False, False, False, True]


def test_grids_that_are_refused():
    adata = library()
    with pytest.raises(
        ValueError, match=r"at most max_compounds=143 compounds; got 3 x 12 x 4 = 144.*max_compounds=144"
    ):
        complete_grid(adata, max_compounds=143)
    assert complete_grid(adata, max_compounds=144).n_obs == 144
    with pytest.raises(ValueError, match=r"must be columns of adata.obs, \['A', 'B', 'C'.*; got 'D'"):
        complete_grid(adata, ["A", "D"])
    with pytest.raises(ValueError, match=r"pass \['A'\]"):
        complete_grid(adata, "A")
    with pytest.raises(ValueError, match=r"repeat the building blocks of another \(columns A, B\)"):
        complete_grid(adata, ["A", "B"])
    missing = adata.copy()
    missing.obs.iloc[3, 1] = None
    with pytest.raises(ValueError, match="'B' has 1 missing names, the first in row 3"):
        complete_grid(missing)
    clash = adata.copy()
    unseen = sorted({f"A1-B{b}-C1" for b in range(1, 13)} - set(adata.obs_names))[0]
    clash.obs_names = [unseen, *adata.obs_names[1:]]
    with pytest.raises(ValueError, match=f"{unseen!r} is the name of an observed compound"):
        complete_grid(clash)
    adata.obsm["fingerprint"] = np.zeros((adata.n_obs, 4))
    with pytest.raises(ValueError, match=r"adata.obsm must be empty.*; got \['fingerprint'\].*complete_grid first"):
        complete_grid(adata)


def test_a_table_that_omits_zeros_is_completed_and_it_is_said(caplog):
    omits = deli()
    with caplog.at_level(logging.INFO, logger="pyro_omics"):
        assert read_del(omits).obs_names.tolist() == ["A1-B1", "A1-B2", "A2-B1", "A2-B2"]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("pyro_omics", "INFO")
    assert "1 of the 4 compounds in the full grid are not in the table and are added with counts" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="pyro_omics"):
        assert read_del(omits, complete=False).n_obs == 3
        full = plain(target_1=[1, 1, 1, 1]).iloc[::-1]
        assert read_del(full).obs_names[0] == "a2-b2"
        assert not caplog.records


def test_combinations_that_a_table_with_zeros_lacks_were_not_made(caplog):
    zeros = deli().assign(corrected_s1=[3, 1, 0], corrected_s2=[0, 1, 0])
    with caplog.at_level(logging.INFO, logger="pyro_omics"):
        assert read_del(zeros).n_obs == 3
    (record,) = caplog.records
    assert "3 of the 4 combinations of building blocks are in the table, 1 of them without" in record.getMessage()
    assert "taken as not synthesised (complete=True adds them" in record.getMessage()
    assert read_del(zeros, complete=True).n_obs == 4


def test_a_table_after_a_threshold_is_completed_with_a_warning():
    filtered = deli().assign(corrected_s1=[3, 2, 0], corrected_s2=[0, 1, 2])
    with pytest.warns(UserWarning, match="looks filtered: each of its compounds has two counts or more") as caught:
        assert read_del(filtered).n_obs == 4
    assert caught[0].filename == __file__ and "complete=False" in str(caught[0].message)
    assert (read_del(filtered, complete=False).n_obs, read_del(filtered, complete=True).n_obs) == (3, 4)
    assert read_del(filtered.assign(corrected_s1=[3, 2, 1], corrected_s2=0)).n_obs == 4


# Fingerprints ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rdkit():
    return pytest.importorskip("rdkit", reason="needs rdkit: pip install 'pyro-omics[chem]'")


def test_fingerprints_count_environments(rdkit):
    # By hand: the distinct atom environments up to the radius. Ethanol has 3 kinds of atom, benzene 1, and 2 more of
    # benzene's once neighbours at distance 1 and 2 are seen; a second radius adds nothing in methane.
    assert fingerprints(["CCO", "c1ccccc1", "C"], radius=0).sum(1).tolist() == [3, 1, 1]
    assert fingerprints(["c1ccccc1", "C"], radius=1).sum(1).tolist() == [2, 1]
    out = fingerprints(["c1ccccc1", "OCC", "CCO"], n_bits=512)
    assert out.sum(1)[0] == 3
    assert (out.dtype, out.shape) == (np.uint8, (3, 512))
    assert (out[1] == out[2]).all()
    assert set(np.unique(out)) == {0, 1}
    # Environments of a part are those of the whole where they do not reach out of it.
    methyl, chain = fingerprints(["CC", "CCCCC"], radius=0)
    assert (chain >= methyl).all()


def test_smiles_that_cannot_be_used_are_listed(rdkit, capfd):
    names = [f"compound{i}" for i in range(14)]
    smiles = pd.Series(["CCO", "C1CC", None, "", "CC(=O)[O-].[Na+]", *["N(C)(C)(C)C"] * 8, "C1.C1"], names)
    with pytest.raises(ValueError, match="12 of 14 SMILES cannot be used") as error:
        fingerprints(smiles)
    lines = str(error.value).splitlines()
    assert lines[1:5] == [
        "  row 1 ('compound1'): 'C1CC' does not parse",
        "  row 2 ('compound2'): None is missing",
        "  row 3 ('compound3'): '' is empty",
        "  row 4 ('compound4'): 'CC(=O)[O-].[Na+]' has 2 fragments",
    ]
    assert lines[11] == "  and 2 more"
    assert "salts='largest'" in lines[12]
    assert capfd.readouterr() == ("", "")  # RDKit's own remarks
    with pytest.raises(ValueError, match=r"row 1: 'X' does not parse\nCorrect them, or leave those compounds out$"):
        fingerprints(["C", "X"])


def test_salts(rdkit):
    salt, acid, sodium = "CC(=O)[O-].[Na+]", "CC(=O)[O-]", "[Na+]"
    whole = fingerprints([salt], salts="keep")
    assert (fingerprints([salt], salts="largest") == fingerprints([acid])).all()
    assert (whole == np.maximum(fingerprints([acid]), fingerprints([sodium]))).all()
    assert (whole != fingerprints([acid])).any()
    assert (fingerprints(["CCCC.Br"], salts="largest") == fingerprints(["CCCC"])).all()
    # Of as many atoms, the heavier.
    assert (fingerprints(["C.Br"], salts="largest") == fingerprints(["Br"])).all()
    assert (fingerprints(["C1.C1"]) == fingerprints(["CC"])).all()  # one molecule, written in two parts
    with pytest.raises(ValueError, match="salts must be 'refuse', 'largest' or 'keep'; got 'strip'"):
        fingerprints([salt], salts="strip")
    with pytest.raises(ValueError, match=r"pass \['CCO'\]"):
        fingerprints("CCO")


def test_fingerprints_are_at_the_top():
    assert (po.fingerprints, po.add_fingerprints) == (fingerprints, add_fingerprints)


def test_add_fingerprints(rdkit):
    smiles = ["C", "CCCCCO", "CCCCC.Br"]
    adata = read_del(deldock().assign(smiles=smiles), complete=False)
    add_fingerprints(adata, radius=1, n_bits=64, salts="largest")
    assert (adata.obsm["fingerprint"] == fingerprints(smiles, radius=1, n_bits=64, salts="largest")).all()
    assert (adata.obsm["fingerprint"] != fingerprints(smiles, radius=2, n_bits=64, salts="largest")).any()
    with pytest.raises(
        ValueError, match=r"key must be the column .*adata.obs, \['A', 'B', 'smiles'\]; got 'structure'"
    ):
        add_fingerprints(adata, "structure")
    with pytest.raises(ValueError, match=r"1 of 4 SMILES cannot be used.*\n  row 3 \('q-y'\): nan is missing"):
        add_fingerprints(read_del(deldock(), complete=True))


def test_without_rdkit(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r'pip install "pyro-omics\[chem\]"'):
        fingerprints(["C"])


# Real sets ------------------------------------------------------------------------------------------------------------


def test_uncdel003():
    table = pd.read_csv(given("UNCDEL003_53bp1.csv.gz") / "UNCDEL003_53bp1.csv.gz")
    adata = po.datasets.uncdel003()
    assert adata.shape == (33 * 40 * 44, 3)
    assert adata.obs_names.is_unique
    assert adata.obs_names[[0, -1]].tolist() == ["A001-B001-C001", "A033-B040-C044"]
    assert (adata.var["condition"] == "target").all()
    assert adata.var_names.tolist() == ["D3index1", "D3index2", "D3index3"]
    assert adata.var["replicate"].tolist() == ["1", "2", "3"]
    assert adata.obs["smiles"].notna().sum() == 4209
    assert (adata.obs[["A", "B", "C"]].agg("-".join, axis=1) == adata.obs_names).all()
    row = table.set_index("DEL_ID").loc["A028-B038-C010"]
    assert adata.obs.loc["A028-B038-C010", "smiles"] == row["SMILES"]
    assert adata["A028-B038-C010"].X.toarray().tolist() == [[12, 1, 0]]
    # DELi's own sums by building block.
    for key in "ABC":
        sums = adata.to_df().groupby(adata.obs[key].astype(str)).sum()
        columns = [f"{key}_corrected_{name}" for name in adata.var_names]
        published = table.groupby(f"ID_{key}")[columns].first()
        assert (sums.to_numpy() == published.to_numpy()).all()
        assert sums.index.tolist() == published.index.tolist()
    assert sums.sum(1).idxmax() == "C006"


def test_uncdel003_smiles_parse_but_for_those_that_are_said(rdkit):
    given("UNCDEL003_53bp1.csv.gz")
    adata = po.datasets.uncdel003()
    seen = adata[adata.obs["smiles"].notna()].copy()
    with pytest.raises(ValueError, match=r"119 of 4209 SMILES cannot be used.*\n  row \d+ \('A005-"):
        add_fingerprints(seen, n_bits=16)
    seen.obs["smiles"] = seen.obs["smiles"].astype(str).str.replace("[N](C)(C)", "[N+](C)(C)", regex=False)
    add_fingerprints(seen, n_bits=16)
    assert seen.obsm["fingerprint"].any(1).all()


def test_deldenoiser_20x20x20():
    names = [f"size20x20x20_{part}.tsv" for part in DELDENOISER]
    folder = given(*names)
    before, after, yields, truth = (pd.read_csv(folder / name, sep="\t") for name in names)
    adata = po.datasets.deldenoiser_20x20x20()
    assert adata.shape == (8000, 2)
    assert adata.var["condition"].tolist() == ["pre-selection", "target"]
    lanes = adata.obs[["A", "B", "C"]].astype(int)
    at = pd.MultiIndex.from_frame(lanes)
    keys = ["cycle_1_lane", "cycle_2_lane", "cycle_3_lane"]
    assert (adata.X[:, 0].toarray()[:, 0] == before.set_index(keys).loc[at, "readcount"]).all()
    assert (adata.X[:, 1].toarray()[:, 0] == after.set_index(keys).loc[at, "readcount"]).all()
    for column in ("log10_K", "survival_rate"):
        assert (adata.obs[column].to_numpy() == truth.set_index(keys).loc[at, column]).all()
    table = yields.set_index(["cycle", "lane"])["yield"]
    for cycle, key in enumerate("ABC", 1):
        assert adata.obs[f"yield_{key}"].tolist() == [table[cycle, lane] for lane in lanes[key]]
    # Compounds that survive selection are the ones that are read after it.
    counts = adata.to_df()
    kept = adata.obs["survival_rate"] > 0.1
    assert counts.loc[kept, "target_1"].mean() > 20 * counts.loc[~kept, "target_1"].mean()
    assert counts.loc[kept, "pre-selection_1"].mean() < 2 * counts.loc[~kept, "pre-selection_1"].mean()
