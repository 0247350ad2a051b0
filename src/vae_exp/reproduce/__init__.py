"""Published figures, run again and compared."""
