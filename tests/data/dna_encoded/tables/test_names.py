"""Building blocks by names that look like numbers or like nothing: kept as they are written, or refused."""

import datetime
import itertools

import numpy as np
import pandas as pd
import pytest

from pyro_omics.data import DELDataModule, read_del
from pyro_omics.data.dna_encoded.full_grid import complete_grid

FAMILIES = ["A B C", "ID_A ID_B ID_C", "cycle1 cycle2 cycle3", "cycle_1_lane cycle_2_lane cycle_3_lane", "bb1 bb2 bb3",
            "bb1_id bb2_id bb3_id", "BB_A BB_B BB_C", "synthon1 synthon2 synthon3", "codon1 codon2 codon3",
            "synthon_A synthon_B synthon_C", "Cycle1_ID Cycle2_ID Cycle3_ID"]  # fmt: skip
COUNTS = [5, 0, 1, 2, 3, 0, 4, 6]


def table(*levels, names="ABC"):
    """The full grid of two building blocks in each cycle, as text."""
    frame = pd.DataFrame(list(itertools.product(*levels)), columns=list(names), dtype=object)
    return frame.assign(target_1=COUNTS[: len(frame)])


def written(folder, frame):
    path = folder / "t.csv"
    frame.to_csv(path, index=False)
    return path


def joined(*levels):
    return ["-".join(names) for names in itertools.product(*levels)]


TEXT = ["a1", "a2"], ["b1", "b2"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ids", [["001", "002"], ["0", "00"], ["1", "x2"], ["001", "1"], ["A", "0017"]])
def test_ids_that_look_like_numbers_are_building_blocks(tmp_path, family, ids):
    for levels in ((*TEXT, ids), (ids, *TEXT), (ids, ids, ids)):
        frame = table(*levels, names=family.split())
        for source in (frame, written(tmp_path, frame)):
            options = {"layout": "plain"} if "lane" in family or "ID" in family else {}
            adata = read_del(source, **options)
            assert adata.obs_names.tolist() == joined(*levels)
            assert adata.X.toarray()[:, 0].tolist() == COUNTS


@pytest.mark.parametrize("ids", [[" 001", "002 "], ['="001"', '="002"'], ["\u00a0001", "002"]])
def test_blanks_and_marks_of_spreadsheets_are_no_part_of_ids(tmp_path, ids):
    for levels in ((*TEXT, ids), (ids, ids, ids)):
        clean = [["001", "002"] if one is ids else one for one in levels]
        for source in (table(*levels), written(tmp_path, table(*levels))):
            assert read_del(source).obs_names.tolist() == joined(*clean)


@pytest.mark.parametrize("ids", [["1.0", "2.0"], ["1,0", "2,0"], [1.0, 2.0], [np.float32(1), np.float32(2)], [1, 2]])
def test_ids_that_became_floats_are_whole(tmp_path, ids):
    for levels in ((*TEXT, ids), (ids, ids, ids)):
        frame = table(*levels, names=["bb1", "bb2", "bb3"])
        clean = [["1", "2"] if one is ids else one for one in levels]
        for source in (frame, written(tmp_path, frame)):
            assert read_del(source).obs_names.tolist() == joined(*clean)


def test_numbers_before_a_cycle_of_text_are_a_cycle():
    frame = table(["a1", "a2"], [1, 2], ["c1", "c2"])
    assert read_del(frame).obs_names.tolist() == joined(["a1", "a2"], ["1", "2"], ["c1", "c2"])


@pytest.mark.parametrize("ids", [["1", "2"], ["10", "7"], ["1.0", "2.0"]])
def test_a_cycle_that_was_left_out_is_named_where_compounds_repeat(tmp_path, ids):
    """The advice was to sum over it."""
    path = written(tmp_path, table(*TEXT, ids))
    with (
        pytest.warns(UserWarning, match="the columns 'C' look like counts"),
        pytest.raises(ValueError, match=r"4 row.s. repeat .*; if 'C' are building blocks too, pass (.*); if they are"),
    ):
        read_del(path)
    mended = read_del(path, synthon_keys=["A", "B", "C"])
    assert mended.obs_names.tolist() == joined(*TEXT, [one.removesuffix(".0") for one in ids])


def test_a_cycle_after_a_gap():
    frame = table(*TEXT, ["d1", "d2"], names="ABD")
    with (
        pytest.warns(UserWarning, match="the columns 'D' are called as building blocks are.*not in line"),
        pytest.raises(ValueError, match=r"if 'D' are building blocks too, pass synthon_keys=\['A', 'B', 'D'\]"),
    ):
        read_del(frame)
    named = frame.rename(columns={name: f"BB_{name}" for name in "ABD"})
    assert read_del(named).obs_names.tolist() == joined(*TEXT, ["d1", "d2"])


@pytest.mark.parametrize("ids", [["c1", "c2"], ["001", "002"], ["1", "2"]])
def test_a_cycle_called_otherwise_than_the_others(tmp_path, ids):
    frame = table(*TEXT, ids, names=["cycle1", "cycle2", "bb3"])
    advice = r"if 'bb3' are building blocks too, pass synthon_keys=\['cycle1', 'cycle2', 'bb3'\]"
    with pytest.warns(UserWarning, match="'bb3'"), pytest.raises(ValueError, match=advice):
        read_del(written(tmp_path, frame))
    with pytest.warns(UserWarning, match="'bb3'"):  # also where no compound repeats
        read_del(written(tmp_path, frame.iloc[[0, 3, 5, 6]]), complete=False)
    adata = read_del(frame, synthon_keys=["cycle1", "cycle2", "bb3"])
    assert adata.obs_names.tolist() == joined(*TEXT, ids)


def test_columns_that_are_not_read_are_named_where_compounds_repeat():
    frame = table(*TEXT, ["c1", "c2"], names=["A", "B", "linker"])
    with pytest.raises(ValueError, match=r"not read, 'linker', are building blocks too, pass all, synthon_keys="):
        read_del(frame)


@pytest.mark.parametrize("twins", [("cycle1", "cycle_1"), ("BB1", "bb_1"), ("bb1", "bb01"), ("BB_A", "bb_a")])
def test_two_columns_of_one_cycle(twins):
    frame = table(*TEXT, ["c1", "c2"]).rename(columns=dict(zip("AB", twins, strict=True)))
    with pytest.raises(ValueError, match=f"'{twins[0]}' and '{twins[1]}' would both be cycle .*: pass .*synthon_keys="):
        read_del(frame)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["1", "1.0"], "must be written alike; got '1' and '1.0': write both as one"),
        (["1.23E+05", "2"], "got '1.23E.05', which a spreadsheet has rounded: export it again"),
        ([1e17, 2e17], r"got the float 1e\+17, above 2\^53.*dtype=str"),
        ([b"1", b"2"], "must hold names, as text or numbers; got b'1', a bytes"),
        ([datetime.date(2024, 3, 1), "x"], r"got datetime.date\(2024, 3, 1\), a date: write them as text"),
        ([["x"], ["y"]], "must hold names; got values that are no text"),
    ],
)
def test_ids_that_are_no_names(ids, message):
    with pytest.raises(ValueError, match=f"the (building blocks in the )?column 'bb3'.*{message}"):
        read_del(table(*TEXT, ids, names=["bb1", "bb2", "bb3"]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("#a1,b1,c1,3", "must be of compounds; got '#a1', as of a comment"),
        ("# note,b1,c1,3", "must be of compounds; got '# note', as of a comment"),
        ("Total,all,all,21", "must be of compounds; got 'Total', as of a row of sums"),
        ("=A2,b1,c1,3", "must hold names; got '=A2', a formula"),
        ("a\x1a1,b1,c1,3", "must hold names; got 'a.x1a1', text with a control character"),
    ],
)
def test_rows_that_are_no_compounds(tmp_path, row, message):
    path = written(tmp_path, table(*TEXT, ["c1", "c2"]))
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(ValueError, match=rf"the column 'A' {message}"):
        read_del(path)


def test_names_of_signs_are_names():
    ids = [["#1", "#2"], ["C#", "C"], ["'", "-"]]
    assert read_del(table(*ids)).obs_names.tolist() == joined(*ids)


# Missing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["NA", "nan", "None", "", "#N/A", "<NA>", "NULL", "n/a", "NaN", "#REF!", " ", " NA"])
def test_words_for_missing_are_no_building_blocks(tmp_path, word):
    frame = table(*TEXT, [word, "c2"])
    message = r"'C' has 4 missing names, the first in row 0 \(counted from 0{}\)(, '{}')?: fill them in, with 'none'"
    with pytest.raises(ValueError, match=message.format("", word.strip())):
        read_del(frame)
    with pytest.raises(ValueError, match=message.format("; line 2 of 't.csv'", word.strip())):
        read_del(written(tmp_path, frame))
    # The mends: another name, and 'none' for products without this building block.
    for name in ("NA_", "none", "Na"):
        assert read_del(frame.replace(word, name)).obs["C"].cat.categories.tolist() == sorted(["c2", name])


def test_words_for_missing_name_no_compound():
    frame = table(*TEXT, ["c1", "c2"]).assign(compound_id=[*"tuvwxy", "NA", "z"])
    with pytest.raises(ValueError, match="'compound_id' must name every compound; got none in row 6"):
        read_del(frame)


def test_words_for_missing_in_an_anndata():
    adata = read_del(table(*TEXT, ["c1", "c2"]))
    adata.obs["C"] = adata.obs["C"].cat.rename_categories({"c1": "nan"})
    for use in (complete_grid, DELDataModule):
        with pytest.raises(ValueError, match=r"'C'.* missing names.* 'nan': fill them in, with 'none'"):
            use(adata)


def test_counts_with_zeros_before_them_are_numbers(tmp_path):
    frame = table(*TEXT, ["c1", "c2"]).rename(columns={"target_1": "target"})
    for counts in (frame["target"].astype(str), frame["target"].map("{:03}".format)):
        for source in (frame.assign(target=counts), written(tmp_path, frame.assign(target=counts))):
            assert read_del(source).X.toarray()[:, 0].tolist() == COUNTS
