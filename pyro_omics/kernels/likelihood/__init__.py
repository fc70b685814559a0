"""Log-probabilities of rows of counts with their gradients, in compiled loops on the CPU and in torch operations."""
