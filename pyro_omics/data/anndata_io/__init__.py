"""Reading of AnnData and MuData from memory, files and stores, and of columns of obs."""
