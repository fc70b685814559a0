"""Count tables of DNA-encoded libraries: files, their layouts, and what each selection was against."""
