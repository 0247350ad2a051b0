"""What a sweep adds to its runs: names, a table of the results."""
