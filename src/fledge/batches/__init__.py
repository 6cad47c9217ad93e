"""Which window of the dataset is seen at which step, and how it gets there."""
