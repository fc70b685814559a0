"""Count tables of DNA-encoded libraries: files, layouts, columns and the conditions of selections."""
