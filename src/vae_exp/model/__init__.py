"""The parts of a VAE: encoders that return a posterior, decoders that return a likelihood, priors."""
