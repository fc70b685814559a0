"""What the benchmarks on PBMC 10k share: the held-out cells, cell types gated from proteins, the purity of a latent."""

import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
}
# A cell is of a type when these markers are high and those are low.
GATES = {
    "CD4T": (("CD3", "CD4"), ("CD8a", "CD19", "CD14")),
    "CD8T": (("CD3", "CD8a"), ("CD19", "CD14")),
    "Mono14": (("CD14",), ("CD3", "CD19")),
    "B": (("CD19",), ("CD3", "CD14")),
    "NK": (("CD56",), ("CD3", "CD14", "CD19")),
}


def gate(protein_counts):
    """Cell types (n,) from two-component mixtures of each marker's log1p counts, at posterior 0.95 either way."""
    logp = np.log1p(protein_counts)
    high = {}
    for marker in {marker for gates in GATES.values() for side in gates for marker in side}:
        values = logp[marker].to_numpy(float)[:, None]
        mixture = GaussianMixture(2, random_state=0).fit(values)
        high[marker] = mixture.predict_proba(values)[:, mixture.means_.ravel().argmax()]
    labels = np.full(len(logp), "unk", dtype=object)
    for name, (up, down) in GATES.items():
        labels[np.all([high[m] > 0.95 for m in up] + [high[m] < 0.05 for m in down], axis=0)] = name
    return labels


def knn_purity(latent, labels, k=15):
    """Share of each labelled cell's k nearest labelled neighbours that have its label."""
    keep = labels != "unk"
    z, y = latent[keep], labels[keep]
    index = NearestNeighbors(n_neighbors=k + 1).fit(z).kneighbors(z, return_distance=False)[:, 1:]
    return float((y[index] == y[:, None]).mean())


def validation_cells(adata):
    """The held-out cells of every figure: a tenth, from a fixed seed."""
    return np.random.default_rng(0).permutation(adata.n_obs)[: adata.n_obs // 10]
