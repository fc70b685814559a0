"""Loops compiled by numba, which share the rows of a minibatch out to torch's threads."""
