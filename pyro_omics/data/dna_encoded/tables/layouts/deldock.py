"""Tables of DEL-Dock: selections on carbonic anhydrase (ca9) or another protein, and on beads.

Source: Shmilovich et al. 2022, arXiv:2212.00136.
"""

from pyro_omics.data.dna_encoded.tables.layouts.base import Layout

DELDOCK = Layout(
    name="deldock",
    needs="'<protein>_exp_r1' and '<protein>_beads_r1'",
    counts={
        r"(?i:(?:(?P<protein>.+)_)?exp_r(?P<replicate>\d+))": "target",
        r"(?i:(?:.+_)?beads_r(?P<replicate>\d+))": "control",
    },
    example={
        "cycle1": ["p", "p", "q", "q"],
        "cycle2": ["x", "y", "x", "y"],
        "smiles": ["C", "CC", "CCC", "CCCC"],
        "ca9_exp_r1": [1, 0, 3, 0],
        "ca9_exp_r2": [4, 5, 6, 1],
        "ca9_beads_r1": [7, 0, 9, 2],
    },
    example_counts={"ca9_exp_r1": [1, 0, 3, 0], "ca9_exp_r2": [4, 5, 6, 1], "ca9_beads_r1": [7, 0, 9, 2]},
)
