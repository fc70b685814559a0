"""Data of DNA-encoded libraries: DataModule, count tables, full grid, fingerprints, synthons and simulators."""
