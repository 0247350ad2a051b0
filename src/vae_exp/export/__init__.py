"""A trained model as files that programs without vae_exp open."""
