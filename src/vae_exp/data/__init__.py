"""Datasets and their splits; images stay uint8 in memory and are scaled batch by batch on the device."""
