"""Python source that is rewritten for one model: what eject.py works with."""
