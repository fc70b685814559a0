"""Tables of deldenoiser: lanes of the split-and-pool synthesis, and the reads of one sample.

Source: Komar and Kalinic 2020, ACS Combinatorial Science 22, 410.
"""

from pyro_omics.data.dna_encoded.tables.layouts.base import Layout

DELDENOISER = Layout(
    name="deldenoiser",
    needs="'cycle_1_lane', 'cycle_2_lane' and 'readcount'",
    counts={"readcount": None},
    example={"cycle_1_lane": [1, 1, 2, 2], "cycle_2_lane": [1, 2, 1, 2], "readcount": [5, 0, 8, 1]},
    example_counts={"readcount": [5, 0, 8, 1]},
    synthons=r"cycle_(\d+)_lane",
)
