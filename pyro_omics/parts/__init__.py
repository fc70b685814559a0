"""What plugs into a model: priors, likelihoods, dispersions, library sizes, backgrounds, effects and weight priors."""
