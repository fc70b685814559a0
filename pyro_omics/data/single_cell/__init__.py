"""Data of single cells: the DataModule, proteins and simulators."""
