"""Search: Optuna proposes the next job from the results of the earlier ones."""
