"""Searching instead of sweeping: Optuna proposes the next job from what the earlier ones gave."""
