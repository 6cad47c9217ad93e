"""Where documents come from: files, folders, named corpora."""
