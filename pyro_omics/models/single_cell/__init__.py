"""Models of single-cell counts: scVI, totalVI, and scVI with labels."""
