"""Objectives: what is minimised, per example and in nats, and the bounds that are reported."""
