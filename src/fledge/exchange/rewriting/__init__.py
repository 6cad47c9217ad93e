"""Python source that serves every model, rewritten for one."""
