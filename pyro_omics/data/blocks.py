"""`Blocks`: how rows on disk are read and shuffled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyro_omics.parts.base import check_positive


@dataclass(frozen=True)
class Blocks:
    """Rows on disk are read in blocks of neighbours, and shuffled among the blocks of a buffer.

    An epoch takes the n training rows in the file's order, cuts them into blocks of ``size`` rows, puts the blocks in a
    random order, and cuts the rows in that order into buffers of m = B k rows, k = max(1, round(size number / B)), with
    minibatches of B rows (of all processes together). The rows of a buffer are shuffled, and dealt into its k
    minibatches. (A block may be cut by the end of a buffer; the last buffer is what is left.) Every order depends on
    (seed, epoch) alone. So, exactly:

    - every training row comes once in an epoch;
    - each row's place is uniform over the epoch where ``size`` divides both m and n. Else a buffer's end cuts blocks,
      at places in them that are not equally likely, and the last block and buffer are shorter: with blocks of 100
      rows and m = 96, the last rows of a block are never in the first minibatch;
    - of b rows of a block that lie in the same buffer, the number in a given minibatch of it is hypergeometric, with
      mean b B / m: with whole blocks, on average a share of size / m, about 1 / number, of a minibatch is of one block;
    - two rows that are in the same buffer are in the same minibatch with probability (B - 1) / (m - 1). Two rows of
      one block, unless the end of a buffer cuts it, always are in the same buffer; two rows of different blocks are in
      one with probability of about m / n, where a buffer holds many blocks. With all rows shuffled it would be
      (B - 1) / (n - 1) for any two.

    Where the file is sorted (by donor, plate or cell type), minibatches are therefore more alike within than rows drawn
    from all: a block counts about B / number times in each of its buffer's minibatches. Let ``number`` be of the size
    of a minibatch, or above, and each row comes from a block of its own on average. Large blocks are read faster, above
    all from compressed files, of which whole chunks are read: there ``Blocks(512, 32)`` suits.

    Memory: one buffer is trained on while the next is read and joined, which takes three times the compressed
    rows of a buffer, of 8 bytes a non-zero count: with the defaults, of 16,384 rows, 60 MB where a row has 150 such
    counts and 800 MB where it has 2,000. Single reads are of no more than ``longest`` rows.

    Parameters
    ----------
    size
        neighbouring training rows in a block.
    number
        blocks in a buffer.

    Raises
    ------
    ValueError
        For a size or number below 1.

    Source: scDataset (D'Ascenzo and Cultrera di Montesano 2025, arXiv:2506.01883) shuffles so, and annbatch does, from
    Python 3.12 on, for .zarr stores.
    """

    size: int = 128
    number: int = 128

    longest = 4096  # rows of the file in a single read

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_positive(size=self.size, number=self.number)

    def n_minibatches(self, batch_size: int) -> int:
        """How many minibatches of ``batch_size`` rows a buffer holds."""
        return max(1, round(self.size * self.number / batch_size))

    def order(self, n: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
        """A permutation of n rows: blocks in random order, and rows shuffled within each buffer."""
        first = rng.permutation(-(-n // self.size)) * self.size
        order = (first[:, None] + np.arange(self.size)).ravel()
        order = order[order < n]
        m = batch_size * self.n_minibatches(batch_size)
        for start in range(0, n, m):
            rng.shuffle(order[start : start + m])
        return order
