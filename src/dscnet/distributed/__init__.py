"""Several processes (ranks) that work on one run, on one or more machines."""
