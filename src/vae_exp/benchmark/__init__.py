"""Benchmarks: this engine beside a plain loop and beside its own matrix products, burst by burst."""
