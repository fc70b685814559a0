"""Tables of KinDEL: selections on a kinase and on the matrix, and the library before selection.

Source: Chen et al. 2024, arXiv:2410.08938.
"""

from pyro_omics.data.dna_encoded.tables.layouts.base import Layout

KINDEL = Layout(
    name="kindel",
    needs="'seq_target_1', 'seq_matrix_1', 'seq_load'",
    counts={
        r"seq_target_(?P<replicate>\d+)": "target",
        r"seq_matrix_(?P<replicate>\d+)": "control",
        r"seq_load": "pre-selection",
    },
    example={
        "smiles": ["CN", "CO", "CCN", "CCO"],
        "smiles_a": ["C", "C", "CC", "CC"],
        "smiles_b": ["N", "O", "N", "O"],
        "molecule_hash": ["h3", "h1", "h0", "h2"],
        "seq_target_1": [1, 0, 2, 0],
        "seq_target_2": [3, 0, 4, 1],
        "seq_matrix_1": [5, 6, 0, 0],
        "seq_load": [7, 0, 2, 0],
    },
    example_counts={
        "seq_target_1": [1, 0, 2, 0],
        "seq_target_2": [3, 0, 4, 1],
        "seq_matrix_1": [5, 6, 0, 0],
        "seq_load": [7, 0, 2, 0],
    },
    id_column="molecule_hash",
)
