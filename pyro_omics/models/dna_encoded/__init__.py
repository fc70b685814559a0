"""Models of DNA-encoded libraries: counts from features, and counts as a superposition of products."""
