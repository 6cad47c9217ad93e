"""Which window of the dataset is seen at which step, and how batches are loaded."""
