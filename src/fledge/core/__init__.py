"""What every package stands on: files, settings, device, processes, signals."""
