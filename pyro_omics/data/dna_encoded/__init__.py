"""Data of DNA-encoded libraries: the DataModule, count tables, the full grid, fingerprints and simulators."""
