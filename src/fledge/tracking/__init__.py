"""Events of a run, and the loggers that write them: files, terminal, TensorBoard, W&B; figures."""
