"""`Blocks`: the sizes of blocks and buffers by which rows on disk are read and shuffled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyro_omics.parts.base import check_positive


@dataclass(frozen=True)
class Blocks:
    """Shuffling of rows on disk: blocks of neighbouring rows are read, and rows are shuffled within a buffer of blocks.

    An epoch takes the n training rows in the file's order, cuts them into blocks of ``size`` rows, puts the blocks in a
    random order, and cuts the rows in that order into buffers of m = B k rows, k = max(1, round(size number / B)),
    where B is the number of rows in a minibatch of all processes together. The rows of a buffer are shuffled and dealt
    into its k minibatches. The end of a buffer may cut a block, and the last buffer has the remaining rows. Every order
    depends on (seed, epoch) alone. It follows that:

    - every training row comes once in an epoch;
    - the position of each row is uniform over the epoch if ``size`` divides both m and n. Otherwise the end of a buffer
      cuts blocks at places that are not equally likely, and the last block and buffer are shorter: with blocks of 100
      rows and m = 96, the last rows of a block are never in the first minibatch;
    - of the b rows of a block that lie in the same buffer, the number in a given minibatch is hypergeometric with
      mean b B / m: of a whole block, on average a share of size / m, about 1 / number, of a minibatch;
    - two rows in the same buffer are in the same minibatch with probability (B - 1) / (m - 1). Two rows of one block
      are in the same buffer unless the end of a buffer cuts the block; two rows of different blocks are in the same
      buffer with probability of about m / n, if a buffer holds many blocks. If all rows were shuffled, any two would be
      in the same minibatch with probability (B - 1) / (n - 1).

    In a file that is sorted (by donor, plate or cell type), the rows of a minibatch are therefore more alike than rows
    drawn from all: each minibatch of a buffer has about B / number rows of each of its blocks. With ``number`` at least
    the size of a minibatch, that is one row of a block on average, or less. Large blocks are read faster, above all
    from compressed files, which are read in whole chunks: ``Blocks(512, 32)`` suits these.

    Memory: one buffer is trained on while the next is read and joined, which needs three times the compressed rows of
    a buffer, at 8 bytes a non-zero count: with the default of 16,384 rows, 60 MB for 150 such counts a row and 800 MB
    for 2,000. A single read has at most ``longest`` rows.

    Parameters
    ----------
    size
        number of neighbouring training rows in a block.
    number
        number of blocks in a buffer.

    Raises
    ------
    ValueError
        For a size or number below 1.

    Source: scDataset (D'Ascenzo and Cultrera di Montesano 2025, arXiv:2506.01883); annbatch, for .zarr stores and
    Python 3.12 or later, shuffles in the same way.
    """

    size: int = 128
    number: int = 128

    longest = 4096  # at most so many rows of the file in a single read

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_positive(size=self.size, number=self.number)

    def n_minibatches(self, batch_size: int) -> int:
        """Number of minibatches of ``batch_size`` rows in a buffer."""
        return max(1, round(self.size * self.number / batch_size))

    def order(self, n: int, batch_size: int, rng: np.random.Generator) -> np.ndarray:
        """Permutation of n rows: blocks in random order, rows shuffled within each buffer."""
        first = rng.permutation(-(-n // self.size)) * self.size
        order = (first[:, None] + np.arange(self.size)).ravel()
        order = order[order < n]
        m = batch_size * self.n_minibatches(batch_size)
        for start in range(0, n, m):
            rng.shuffle(order[start : start + m])
        return order
