"""Plain tables: columns of counts are named by their condition, or given by ``conditions``."""

from pyro_omics.data.dna_encoded.tables.conditions import KNOWN
from pyro_omics.data.dna_encoded.tables.layouts.base import Layout

PLAIN = Layout(
    name="plain",
    needs="'target_1', 'control_1', 'pre-selection_1', or columns given by conditions",
    counts={
        rf"(?i:{condition.replace('-', '[-_ ]?')}(?:[-_. ]?(?:r|rep)?(?P<replicate>\d+))?)": condition
        for condition in KNOWN
    },
    example={
        "A": ["a1", "a1", "a2", "a2"],
        "B": ["b1", "b2", "b1", "b2"],
        "target_1": [3, 0, 7, 1],
        "target_2": [2, 1, 5, 0],
        "control_1": [1, 0, 0, 2],
        "pre-selection_1": [4, 3, 5, 2],
    },
    example_counts={
        "target_1": [3, 0, 7, 1],
        "target_2": [2, 1, 5, 0],
        "control_1": [1, 0, 0, 2],
        "pre-selection_1": [4, 3, 5, 2],
    },
    is_general=True,
)
