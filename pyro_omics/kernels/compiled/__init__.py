"""Loops compiled by numba, which divide the rows of a minibatch among torch's threads."""
