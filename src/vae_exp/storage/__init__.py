"""Files of a run directory: names, lock, atomic writes."""
