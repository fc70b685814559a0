"""The files of a finished fit, and the comparison of several fits in one table."""
