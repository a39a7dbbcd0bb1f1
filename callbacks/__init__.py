"""What a run shows while it goes and when it is done."""
