"""Log-probabilities of rows of counts with their gradients, by compiled loops on a processor and by torch elsewhere."""
