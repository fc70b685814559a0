"""AnnData and MuData in, from memory, files and stores."""
