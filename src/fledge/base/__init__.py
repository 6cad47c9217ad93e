"""What every room stands on: errors, settings, files, the machine."""
