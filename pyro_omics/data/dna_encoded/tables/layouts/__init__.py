"""The layouts of DEL count tables that `read_del` knows, each in a file of its own and listed in `LAYOUTS`.

=========== ================================================== ================== ==================
layout      columns of counts: condition                       building blocks    compound's name
=========== ================================================== ================== ==================
deldock     ``ca9_exp_r1``, ``exp_r1``: target;                any                any
            ``ca9_beads_r1``, ``beads_r1``: control
kindel      ``seq_target_1``: target; ``seq_matrix_1``:        any                ``molecule_hash``
            control; ``seq_load``: pre-selection
deli        ``corrected_<selection>`` (UMI) or                 ``ID_A``, ``ID_B`` ``DEL_ID``
            ``raw_<selection>``: target
deldenoiser ``readcount``: not known                           ``cycle_1_lane``   blocks, joined
plain       ``target_1``, ``control_1``, ``pre-selection_1``,  any                any
            ``competitor_1``, in any case, also without the
            number, and what ``conditions`` names
=========== ================================================== ================== ==================
"""

from typing import TYPE_CHECKING, Literal

from pyro_omics.data.dna_encoded.tables.layouts.base import Layout
from pyro_omics.data.dna_encoded.tables.layouts.deldenoiser import DELDENOISER
from pyro_omics.data.dna_encoded.tables.layouts.deldock import DELDOCK
from pyro_omics.data.dna_encoded.tables.layouts.deli import DELI
from pyro_omics.data.dna_encoded.tables.layouts.kindel import KINDEL
from pyro_omics.data.dna_encoded.tables.layouts.plain import PLAIN

LAYOUTS = {layout.name: layout for layout in (DELDOCK, KINDEL, DELI, DELDENOISER, PLAIN)}

if TYPE_CHECKING:
    LayoutName = str
else:
    LayoutName = Literal[tuple(LAYOUTS)]  # the choices of the command line

__all__ = ["LAYOUTS", "Layout", "LayoutName"]
