"""Swappable parts of a model: priors, likelihoods, dispersions, library sizes, backgrounds, effects, weight priors."""
