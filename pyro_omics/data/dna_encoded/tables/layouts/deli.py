"""Tables of DELi: UMI counts and reads of each selection, and sums over building blocks.

Source: github.com/Popov-Lab-UNC/DELi.
"""

from pyro_omics.data.dna_encoded.tables.layouts.base import Layout

UMI, READS = "corrected", "raw"

DELI = Layout(
    name="deli",
    needs="'ID_A', 'ID_B' and 'corrected_<selection>' or 'raw_<selection>'",
    counts={rf"(?P<kind>{UMI}|{READS})_(?P<name>.+)": "target"},
    example={
        "DEL_ID": ["A1-B1", "A1-B2", "A2-B1", "A2-B2"],
        "ID_A": ["A1", "A1", "A2", "A2"],
        "ID_B": ["B1", "B2", "B1", "B2"],
        "raw_s1": [12, 0, 30, 0],
        "corrected_s1": [1, 0, 3, 0],
        "raw_s2": [12, 24, 0, 0],
        "corrected_s2": [1, 1, 0, 0],
        "A_corrected_s1": [1, 1, 3, 3],
    },
    example_counts={"s1": [1, 0, 3, 0], "s2": [1, 1, 0, 0]},
    synthons=r"ID_([A-Z])",
    id_column="DEL_ID",
    prefixes={"umi": UMI, "raw": READS},
    names_conditions=False,
    takes_other_columns=False,  # other columns are sums over building blocks, or reads of the same samples
)
