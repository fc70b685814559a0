"""Fingerprints of SMILES, computed by RDKit, with errors that list the molecules that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

MAX_SHOWN = 10  # number of molecules in an error
Salts = Literal["refuse", "largest", "keep"]


def fingerprints(
    smiles: Sequence[str] | pd.Series, radius: int = 2, n_bits: int = 2048, salts: Salts = "refuse"
) -> np.ndarray:
    """Compute Morgan (circular) fingerprints of molecules, folded to bits.

    Parameters
    ----------
    smiles
        (n,) SMILES; the index of a Series names the molecules in errors.
    radius
        radius of the atoms' environments, in bonds; 2 gives ECFP4.
    n_bits
        length of a fingerprint.
    salts
        what to do with a molecule of several fragments (a "." in the SMILES): ``"refuse"`` it, take the ``"largest"``
        fragment (by heavy atoms, then mass), or ``"keep"`` all.

    Returns
    -------
    Array (n, n_bits) of 0 and 1, uint8.

    Raises
    ------
    ImportError
        If RDKit is not installed.
    ValueError
        If molecules are missing or empty, cannot be parsed, or have several fragments under ``salts="refuse"``; the
        error lists the first 10.

    Source: Rogers & Hahn 2010, J. Chem. Inf. Model. 50, 742; RDKit's ``GetMorganGenerator``.
    """
    try:
        from rdkit import rdBase
        from rdkit.Chem import rdFingerprintGenerator
    except ImportError as error:
        raise ImportError('fingerprints need the package rdkit: pip install "pyro-omics[chem]"') from error
    if salts not in ("refuse", "largest", "keep"):
        raise ValueError(f"salts must be 'refuse', 'largest' or 'keep'; got {salts!r}")
    if isinstance(smiles, str):
        raise ValueError(f"smiles must be a list of SMILES; got the text {smiles!r}: pass [{smiles!r}]")
    if not isinstance(smiles, pd.Series):
        smiles = smiles.to_pylist() if hasattr(smiles, "to_pylist") else list(smiles)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=n_bits)
    out = np.zeros((len(smiles), n_bits), dtype=np.uint8)
    problems = []
    with rdBase.BlockLogs():  # RDKit would print its own message for each molecule
        for row, text in enumerate(smiles):
            molecule = _molecule(text, salts)
            if isinstance(molecule, str):
                problems.append((row, text, molecule))
            else:
                out[row] = generator.GetFingerprintAsNumPy(molecule)
    if problems:
        raise ValueError(_report(smiles, problems))
    return out


def add_fingerprints(
    adata: AnnData, key: str = "smiles", radius: int = 2, n_bits: int = 2048, salts: Salts = "refuse"
) -> None:
    """Fill ``adata.obsm["fingerprint"]`` (n, n_bits) from the SMILES in ``adata.obs[key]``; see `fingerprints`.

    Raises
    ------
    ImportError, ValueError
        As `fingerprints`, and if there is no such column.
    """
    if key not in adata.obs:
        raise ValueError(f"key must be the column of SMILES in adata.obs, {list(adata.obs.columns)}; got {key!r}")
    adata.obsm["fingerprint"] = fingerprints(adata.obs[key], radius, n_bits, salts)


def _molecule(smiles: Any, salts: Salts) -> Any:
    """The RDKit molecule, or a text that says what is wrong with its SMILES."""
    from rdkit import Chem
    from rdkit.Chem.rdMolDescriptors import CalcExactMolWt

    if not isinstance(smiles, str):
        return "is missing" if pd.isna(smiles) else "is not text"
    if not smiles.strip():
        return "is empty"
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return "does not parse"
    if "." not in smiles or salts == "keep":
        return molecule
    fragments = Chem.GetMolFrags(molecule, asMols=True)
    if len(fragments) > 1 and salts == "refuse":
        return f"has {len(fragments)} fragments"
    return max(fragments, key=lambda part: (part.GetNumHeavyAtoms(), CalcExactMolWt(part)))


def _report(smiles: Sequence[str] | pd.Series, problems: list[tuple[int, Any, str]]) -> str:
    def line(row: int, text: Any, problem: str) -> str:
        name = f" ({smiles.index[row]!r})" if isinstance(smiles, pd.Series) else ""
        return f"  row {row}{name}: {text!r} {problem}"

    shown = "\n".join(line(*problem) for problem in problems[:MAX_SHOWN])
    more = f"\n  and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
    fix = "Correct them, or leave those compounds out"
    if any("fragments" in problem for _, _, problem in problems):
        fix += "; of several fragments, salts='largest' takes the largest and salts='keep' all"
    return f"{len(problems)} of {len(smiles)} SMILES cannot be used (rows counted from 0):\n{shown}{more}\n{fix}"
