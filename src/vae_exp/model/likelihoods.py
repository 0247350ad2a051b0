"""Likelihoods: what a decoder's outputs say about the pixels."""

from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from vae_exp.distributions.bernoulli import LogitBernoulli, LogitContinuousBernoulli, SummedBernoulli


class Likelihood(nn.Module):
    """Turns a decoder's outputs into p(x|z).

    A decoder yields `parameters_per_value` numbers for every value of the image.
    """

    parameters_per_value: int

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., parameters_per_value, *image_shape]` → a distribution over `[..., *image_shape]`."""
        raise NotImplementedError


class BernoulliLikelihood(Likelihood):
    """p(x|z) = Π Bernoulli(xᵢ; sigmoid(logitᵢ)), parameterised by logits (Kingma & Welling 2014, appendix C).

    Its `log_prob` also takes greyscale values in [0, 1]: then it is minus the cross-entropy that many
    implementations minimise, a lower-is-better score, but not the log-likelihood of any model of grey values.
    """

    parameters_per_value = 1

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 1, C, H, W]` → a distribution over `[..., C, H, W]`."""
        bernoulli = LogitBernoulli(logits=parameters.squeeze(-4), validate_args=False)
        return SummedBernoulli(bernoulli, 3, validate_args=False)


class ContinuousBernoulliLikelihood(Likelihood):
    """p(x|z) = Π C(λᵢ) λᵢ^xᵢ (1 − λᵢ)^(1 − xᵢ) over [0, 1] (Loaiza-Ganem & Cunningham 2019).

    The density that `BernoulliLikelihood` on grey values lacks a constant to be. Its logarithm may be positive: it
    is a density of real values, not a probability of grey levels.
    """

    parameters_per_value = 1

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 1, C, H, W]` → a distribution over `[..., C, H, W]`."""
        return Independent(
            LogitContinuousBernoulli(logits=parameters.squeeze(-4), validate_args=False), 3, validate_args=False
        )
