"""How fast an inversion is, and why: against the authors' way, and against what the device can do."""
