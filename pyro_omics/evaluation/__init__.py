"""Report of a fit, and comparison of several fits."""
