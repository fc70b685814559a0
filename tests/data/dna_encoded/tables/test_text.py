"""Text tables as spreadsheets write them: read as what they say, or refused with file, line and mend."""

import bz2
import gzip
import io
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest

import pyro_omics as po
from pyro_omics.data import read_del
from pyro_omics.data.dna_encoded.tables import text

HEAD = ["A", "B", "target_1", "target_2", "control_1"]
ROWS = [[f"A{i}", f"B{j}", str(40 + i), str(1 + j), "2"] for i in range(3) for j in range(4)]
TRUTH = read_del(pd.DataFrame(ROWS, columns=HEAD).astype(dict.fromkeys(HEAD[2:], int)))


def table(separator=",", end="\n", rows=ROWS, head=HEAD, quote=""):
    return "".join(separator.join(f"{quote}{field}{quote}" for field in row) + end for row in [head, *rows])


def with_field(row, column, value):
    return [[value if (i, j) == (row, column) else field for j, field in enumerate(r)] for i, r in enumerate(ROWS)]


def with_line(number, line):
    lines = table().split("\n")
    lines[number - 1] = line
    return "\n".join(lines)


def read(folder, content, name="screen7.csv", **options):
    path = folder / name
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    return read_del(path, **options)


def same(found):
    return found.to_df().equals(TRUTH.to_df()) and found.obs.equals(TRUTH.obs) and found.var.equals(TRUTH.var)


FORMS = {
    "commas": table(),
    "semicolons": table(";"),
    "tabs": table("\t"),
    "bars": table("|"),
    "bars and commas": table("|", rows=[[*row, "2,3,4,5,6,7-x"] for row in ROWS], head=[*HEAD, "name"]),
    "commas and bars": table(rows=[[*row, "a|b|c|d|e|f|g"] for row in ROWS], head=[*HEAD, "name"]),
    "windows": table(";", "\r\n"),
    "old mac": table(end="\r"),
    "no end of line": table().rstrip("\n"),
    "quoted": table(quote='"'),
    "quoted numbers": table(rows=[[*row[:2], *(f'"{field}"' for field in row[2:])] for row in ROWS]),
    "byte order mark": "\ufeff" + table(";", "\r\n"),
    "byte order mark and quotes": "\ufeff" + table(quote='"'),
    "utf-16": table("\t", "\r\n").encode("utf-16"),
    "utf-16 without a mark": table("\t", "\r\n").encode("utf-16-le"),
    "utf-16 of the other order": table(";").encode("utf-16-be"),
    "utf-32": table(quote='"').encode("utf-32"),
    "sep": "sep=;\r\n" + table(";", "\r\n"),
    "sep after a mark": "\ufeffsep=;\n" + table(";"),
    "sep in quotes": '"sep=;"\n' + table(";"),
    "sep in capitals": "SEP=,\n" + table(),
    "sep of another kind": "sep=|\n" + table("|"),
    "sep of a colon": "sep=:\n" + table(":"),
    "sep of a blank": "sep= \n" + table(" "),
    "comment": "# run 2, counted on two machines, v1\n" + table(),
    "comment of as many fields": "# a, b, c, d, e\n" + table(),
    "header as a comment": "# run 2\n#" + table(),
    "title": "Library 7, export\n\n" + table(),
    "title with blank fields": "Library 7,,,,\n,,,,\n" + table(),
    "pairs": "Target,CA9\nDate,2024-01-01\n" + table(),
    "blank lines": "\n\n" + table() + "\n\n",
    "blank rows": table(rows=[*ROWS[:5], [""] * 5, *ROWS[5:], [""] * 5]),
    "blank columns": table(rows=[[*row, "", ""] for row in ROWS], head=[*HEAD, "", ""]),
    "blank names": table(head=[*HEAD, "", ""]),
    "blank fields": table(rows=[[*row, ""] for row in ROWS]),
    "one blank field": with_line(5, ",".join(ROWS[3]) + ","),
    "blanks around names": table(head=["A ", " B", "target_1", "target_2 ", "\u00a0control_1"]),
    "blanks around building blocks": table(rows=with_field(5, 0, "A1 ")),
    "blanks around numbers": table(rows=with_field(5, 2, " 41 ")),
    "row names": table(rows=[[str(i), *row] for i, row in enumerate(ROWS)], head=["", *HEAD]),
    "row names in quotes": table(rows=[[str(i), *row] for i, row in enumerate(ROWS)], head=["", *HEAD], quote='"'),
    "floats": table(rows=[[*row[:2], f"{row[2]}.0", *row[3:]] for row in ROWS]),
    "three decimals": table(rows=[[*row[:2], f"{row[2]}.000", *row[3:]] for row in ROWS]),
    "decimal commas": table(";", rows=[[*row[:2], *(f"{field},0" for field in row[2:])] for row in ROWS]),
    "notes over lines": table(rows=[[*row, '"see\nbelow"'] for row in ROWS], head=[*HEAD, "notes"]),
    "semicolons and commas": table(";", rows=[[*row, "2,3,4,5,6,7-x"] for row in ROWS], head=[*HEAD, "name"]),
    "tabs and commas": table("\t", rows=[[*row, "2,3,4,5,6,7-x"] for row in ROWS], head=[*HEAD, "name"]),
    "commas and semicolons": table(rows=[[*row, "a;b;c;d;e;f;g"] for row in ROWS], head=[*HEAD, "name"]),
    "texts that stay texts": table(rows=[[f'="{row[0]}"', *row[1:2], f'="{row[2]}"', *row[3:]] for row in ROWS]),
    "no notes": table(head=[*HEAD, "notes"]),
    "some notes": table(rows=[[*row, "good"] if i < 3 else row for i, row in enumerate(ROWS)], head=[*HEAD, "notes"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_one_table(tmp_path, form):
    assert same(read(tmp_path, FORMS[form]))


def zipped(*names, content=None):
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for name in names:
            archive.writestr(name, table() if content is None else content)
    return found.getvalue()


COMPRESSED = {
    "gz": gzip.compress(table().encode()),
    "gz in parts": b"".join(gzip.compress(part.encode()) for part in table().splitlines(keepends=True)),
    "bz2": bz2.compress(table().encode()),
    "xz": lzma.compress(table().encode()),
    "zip": zipped("screen7.csv", "__MACOSX/screen7.csv"),
    "not": table().encode(),
}


@pytest.mark.parametrize("form", COMPRESSED)
@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz", "s.txt.xz", "s.TSV.ZIP", "s.csv.bz2"])
def test_compression_is_what_the_file_holds(tmp_path, form, name):
    path = tmp_path / name
    path.write_bytes(COMPRESSED[form])
    assert same(read_del(path))
    assert po.DELDataModule(path).n_obs == 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(COMPRESSED["bz2"]), "it is compressed twice: decompress it once"),
        *[(COMPRESSED[form][:-20], "could not be read as a table") for form in ("gz", "bz2", "xz", "zip")],
        (COMPRESSED["gz"][:30] + b"\xff\xff\xff" + COMPRESSED["gz"][33:], "could not be read as a table"),
        (zipped("a.csv", "b.csv"), "it is a zip file of 2 files, and must have one: unpack it"),
        (zipped(), "it is a zip file of 0 files|File is not a zip file|it is no text"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "it is an Excel workbook: save the sheet as CSV"),
        (zipped("mimetype", "content.xml"), "it is a workbook of LibreOffice: save the sheet as CSV"),
        (b"PAR1" + bytes(99), "it is a Parquet file: give it the ending .parquet"),
        (b"\x89HDF\r\n" + bytes(99), "it is an HDF5 file: .*DELDataModule"),
        (table(" ").encode(), r"it has one column, 'A B target_1 .*: separate fields by a comma.*sep=:"),
        (table(":").encode(), r"it has one column, 'A:B:target_1"),
    ],
)
def test_files_that_are_no_text_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"(?s)screen7.csv' could not be read as a table.*{message}|{message}"):
        read(tmp_path, content)


@pytest.mark.parametrize("name", ["S.CSV", "s.Csv", "S.TSV", "S.TXT", "s.csv.GZ", "S.TSV.GZ"])
def test_suffixes_in_capitals(tmp_path, name):
    content = table("\t" if "T" in name else ",")
    assert same(read(tmp_path, content, name))
    assert po.DELDataModule(tmp_path / name).n_obs == 12


def test_parquet_in_capitals(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'pyro-omics[chem]'")
    pd.DataFrame(ROWS, columns=HEAD).to_parquet(tmp_path / "s.Parquet")
    assert same(read_del(tmp_path / "s.Parquet"))
    assert po.DELDataModule(tmp_path / "s.Parquet").n_obs == 12


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_names_of_other_letters(tmp_path, encoding):
    found = read(tmp_path, table(rows=with_field(0, 0, "µ1")).encode(encoding), complete=False)
    assert found.obs_names[0] == "µ1-B0"


@pytest.mark.parametrize("encoding", ["cp1252", "mac_roman"])
def test_two_encodings_in_one_file(tmp_path, encoding):
    """The µ in UTF-8 was read as two letters."""
    content = table(rows=with_field(0, 0, "µ1")).encode() + "é,B0,1,1,1\n".encode(encoding)
    with pytest.raises(ValueError, match="it is of two encodings, UTF-8 at 'µ' and another: save it anew as UTF-8"):
        read(tmp_path, content)


@pytest.mark.parametrize("mark", ["\x0c", "\u2028", "\x85", "\u00a0"])
def test_lines_of_one_mark_are_counted(tmp_path, mark):
    content = table() + mark + "\n"
    with pytest.raises(ValueError, match=r"row 12 .*; line 14 of 'screen7.csv', which has 1 fields for 5 columns"):
        read(tmp_path, content)


@pytest.mark.parametrize("chunk", [7, 64])
def test_lines_are_checked_in_chunks(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(text, "CHUNK", chunk)
    for form in ("commas", "windows", "title", "blank fields", "quoted", "byte order mark", "no end of line"):
        assert same(read(tmp_path, FORMS[form])), form
    with pytest.raises(ValueError, match=r"screen7.csv' .*line 9: it has 6 fields for 5 named columns"):
        read(tmp_path, with_line(9, "A1,x,B3,41,4,2"))
    with pytest.raises(ValueError, match=r"screen7.csv' .*line 9: a quote"):
        read(tmp_path, with_line(9, 'A1,B3,"41,4,2'))


def test_lines_longer_than_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "SAMPLE", 16)
    for form in ("commas", "title", "sep", "quoted", "no end of line"):
        assert same(read(tmp_path, FORMS[form])), form


# Broken lines ---------------------------------------------------------------------------------------------------------

BROKEN = {
    "quote": ('"A1,B2,41,3,2', r'line 8: a quote \("\) is opened and not closed, at .A1,B2.*take it out, or close it'),
    "quote in the last field": ('A1,B2,41,3,"2', "line 8: a quote .* is opened and not closed"),
    "two quotes": ('"A1,B2,41,3,2\nA1,"B3,41,4,2', "line 8: a quote .* is opened and not closed"),
    "a field more": ("A1,x,B2,41,3,2", r"line 8: it has 6 fields for 5 named columns: take out a separator \(','\)"),
    "thousands by commas": ("A1,B2,1,234,3,2", "line 8: it has 6 fields for 5 named columns.*in quotes"),
    "a note beside the table": ("A1,B2,41,3,2,,check", "line 8: it has 7 fields for 5 named columns.*name the column"),
    "a field less": ("A1,B2,41,3", "line 8 of 'screen7.csv', which has 4 fields for 5 columns: complete it"),
    "one field": ("A1", r"line 8 of 'screen7.csv', which has 1 fields for 5 columns: complete it"),
    "no name": (",B2,41,3,2", r"'A' has 1 missing names, the first in row 6 \(counted from 0; line 8 of 'screen7.csv'"),
    "the header again": (",".join(HEAD), "line 8 of 'screen7.csv'.* has 'target_1', which is not a number"),
    "a sum": ("Total,,48,30,24", "'B' has 1 missing names, the first in row 6 .*line 8 of 'screen7.csv'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_lines_are_refused(tmp_path, case):
    line, message = BROKEN[case]
    with pytest.raises(ValueError, match=f"(?s)(screen7.csv.*)?{message}") as error:
        read(tmp_path, with_line(8, line))
    assert "screen7.csv" in str(error.value)


def test_lines_are_counted_with_what_stands_above_and_over_lines(tmp_path):
    content = "sep=,\n# run\n\n" + with_line(8, "A1,B2,41,x,2")
    with pytest.raises(ValueError, match=r"row 6 \(counted from 0; line 11 of 'screen7.csv'\) has 'x'"):
        read(tmp_path, content)
    rows = [[*row, '"see\nbelow"'] for row in with_field(6, 3, "x")]
    with pytest.raises(ValueError, match=r"row 6 \(counted from 0; line 14 of 'screen7.csv'\) has 'x'"):
        read(tmp_path, table(rows=rows, head=[*HEAD, "notes"]))


def test_names_twice_in_the_header(tmp_path):
    with pytest.raises(ValueError, match="distinct columns; got several called 'target_1'"):
        read(tmp_path, table(head=["A", "B", "target_1", "target_1 ", "control_1"]))
    with pytest.raises(ValueError, match="distinct columns; got several called 'A'"):
        read(tmp_path, table(head=["A", "A ", "target_1", "target_2", "control_1"]))


def test_a_header_shorter_than_all_rows(tmp_path):
    content = table(rows=[[*row, "2", "3", "di"] for row in ROWS], head=[*HEAD, "name"])
    with pytest.raises(ValueError, match=r"line 1: its 6 fields look like a header, and most lines have 8.*in quotes"):
        read(tmp_path, content)


@pytest.mark.parametrize(("name", "other"), [("A1\u200b", "A1"), ("A  1", "A 1")])
def test_building_blocks_that_differ_within(tmp_path, name, other):
    rows = [[name if i == 0 else other, *row[1:]] for i, row in enumerate(ROWS[:4])]
    with pytest.raises(ValueError, match="the building blocks in the column 'A' must differ in more than blanks"):
        read(tmp_path, table(rows=rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\0\1\2" * 99, "it is no text"), (b"\n \n", "it is empty"), (bytes(range(1, 256)), "could not be read")],
)
def test_what_is_no_text(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"screen7.csv' could not be read as a table .*{message}|{message}"):
        read(tmp_path, content)


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *[(f"1{blank}234", 1234) for blank in (" ", "\u00a0", "\u202f", "'", "\u2019")],
        *[("+5", 5), ("12,0", 12), ("12.00", 12), ("3.", 3), ("1e+05", 100_000), ("1E+05", 100_000), ("1.5e1", 15)],
    ],
)
def test_numbers_that_say_one_thing(tmp_path, written, value):
    found = read(tmp_path, table(";", rows=with_field(5, 2, written)))
    assert found["A1-B1", "target_1"].X.toarray()[0, 0] == value
    assert found.X.sum() == TRUTH.X.sum() + value - 41


@pytest.mark.parametrize("separator", [";", "\t", ","])
@pytest.mark.parametrize("written", ["2.000", "1.234", "1.234.567", "2,000", "1,234", "1.23E+05"])
def test_numbers_that_say_two_things(tmp_path, separator, written):
    """2.000 was read as 2, beside counts of 40."""
    quoted = f'"{written}"' if separator == "," else written
    message = (
        rf"counts of 'target_1': row 5 .*line 7 of 'screen7.csv'\) has '{written}', which is not a plain whole num"
    )
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        read(tmp_path, table(separator, rows=with_field(5, 2, quoted)))


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        *[
            ("2.5", "a fraction"),
            ("12,5", "a fraction"),
            ("0.517", "a fraction"),
            ("-3", "negative"),
            ("#N/A", "missing"),
        ],
        *[(value, "not a number") for value in ("n.d.", ">5", "1_000", "0x10", "1.234,00", "TRUE")],
    ],
)
def test_what_is_no_count(tmp_path, written, problem):
    with pytest.raises(ValueError, match=rf"counts of 'target_1': row 5 .*line 7 .* has .*, which is {problem}"):
        read(tmp_path, table(";", rows=with_field(5, 2, written)))


# Frames ---------------------------------------------------------------------------------------------------------------

FRAME = pd.DataFrame(ROWS, columns=HEAD).astype(dict.fromkeys(HEAD[2:], int))
BACKENDS = {
    "nullable": lambda frame, arrow: frame.convert_dtypes(),
    "pyarrow": lambda frame, arrow: frame.convert_dtypes(dtype_backend="pyarrow"),
    "dictionary": lambda frame, arrow: frame.astype(
        {"A": pd.ArrowDtype(arrow.dictionary(arrow.int32(), arrow.string()))}
    ),
    "table": lambda frame, arrow: arrow.Table.from_pandas(frame),
    "record batch": lambda frame, arrow: arrow.Table.from_pandas(frame).to_batches()[0],
    "category": lambda frame, arrow: frame.astype({"A": "category"}),
    "text": lambda frame, arrow: frame.astype(str),
    "float16": lambda frame, arrow: frame.astype({"target_1": np.float16}),
    "blanks": lambda frame, arrow: frame.assign(A=[f"{a} " if i == 3 else a for i, a in enumerate(frame["A"])]),
    "blank names": lambda frame, arrow: frame.rename(columns={"A": "A ", "target_1": " target_1"}),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_frames_of_every_type(backend):
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'pyro-omics[chem]'")
    assert same(read_del(BACKENDS[backend](FRAME, arrow)))


def test_missing_counts_of_pyarrow_are_missing():
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'pyro-omics[chem]'")
    frame = FRAME.astype({"target_1": "int64[pyarrow]"})
    frame.loc[4, "target_1"] = None
    with pytest.raises(ValueError, match=r"counts of 'target_1': row 4 \(counted from 0\) has nan, which is missing"):
        read_del(frame)


@pytest.mark.parametrize("column", [pd.Timestamp("2020-01-01"), 1 + 2j])
def test_columns_of_no_number(column):
    with pytest.raises(ValueError, match=r"counts of 'target_1': row 0 .* is not a number"):
        read_del(FRAME.assign(target_1=column))


def test_arguments_in_every_container():
    for keys in (pd.Index(["A", "B"]), np.array(["A", "B"]), (key for key in "AB"), ["A ", "B"]):
        assert same(read_del(FRAME, synthon_keys=keys))
    for conditions in ({"control_1 ": "target"}, pd.Series({"control_1": "target"})):
        assert read_del(FRAME, conditions=conditions).var["condition"].tolist() == ["target"] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synthon_keys": {"A", "B"}}, "synthon_keys must be in order, and a set has none"),
        ({"synthon_keys": 3}, "synthon_keys must be a list of names; got a int"),
        ({"conditions": ["control_1"]}, "conditions must map columns to conditions; got a list"),
        ({"conditions": {"control_1": "control "}}, "looks misspelt: pass 'control'"),
        ({"complete": "yes"}, "complete must be True, False or None; got 'yes'"),
    ],
)
def test_a_wrong_type_names_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        read_del(FRAME, **options)
