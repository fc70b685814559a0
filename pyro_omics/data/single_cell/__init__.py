"""Data of single cells: the DataModule, protein counts and simulators."""
