"""The dense matrix products of an epoch of DELCount, and nothing else: python products.py FILE.h5ad [options].

Of each of the two networks (2,048 -> 128, two blocks 128 -> 128, 128 -> 1): the product forward, the gradient of its
weights, and, but for the first, of its inputs. The operands lie ready; no data are read."""

import argparse
import contextlib

from gate import Finished, Gate

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--batch", type=int, default=1024)
options = parser.parse_args()

import anndata  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(options.threads)
n_obs = anndata.read_h5ad(options.data, backed="r").n_obs
layers = [(2048, 128), (128, 128), (128, 128), (128, 1)] * 2
n = options.batch
weights = [torch.randn(n_in, n_out) for n_in, n_out in layers]
inputs = [torch.randn(n, n_in) for n_in, _ in layers]
gradients = [torch.randn(n, n_out) for _, n_out in layers]


def main():
    gate, steps = Gate(), -(-n_obs // n)
    while True:
        gate.wait()
        for _ in range(steps):
            for weight, x, gradient in zip(weights, inputs, gradients, strict=True):
                x @ weight
                x.T @ gradient
                if weight.shape[0] != 2048:
                    gradient @ weight.T
        gate.done(steps=steps)


with contextlib.suppress(Finished):
    main()
