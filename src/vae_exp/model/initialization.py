"""Initial weights and output biases other than torch's defaults."""

from typing import Any

import torch
from torch import Tensor, nn

from vae_exp.model.likelihoods import BernoulliLikelihood

_MEAN_RANGE = (0.001, 0.999)
_WEIGHTED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def initialize(model: nn.Module, name: str) -> None:
    """Draw all weights from torch's global generator.

    Args:
        model: Its linear and convolutional layers are initialized.
        name: `default` leaves them as torch has drawn them; `glorot_uniform` draws from U(−a, a),
            a² = 6 / (inputs + outputs), with biases of zero (Glorot & Bengio 2010), as Burda, Grosse &
            Salakhutdinov 2016 do. A layer of two halves counts as two layers.
    """
    if name == "default":
        return
    for layer in model.modules():
        if isinstance(layer, _WEIGHTED):
            outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # the axis
            for part in layer.weight.chunk(getattr(layer, "halves", 1), outputs):
                nn.init.xavier_uniform_(part)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def init_bias_to_data_mean(decoder: nn.Module, mean_image: Tensor) -> None:
    """Set the output bias of a Bernoulli decoder to the logit of the mean image (Burda et al. 2016).

    The mean is clipped to [0.001, 0.999] first, as in the authors' code.

    Args:
        decoder: With a linear layer `output` of one logit for each value of the image.
        mean_image: `[channels, height, width]` in [0, 1].

    Raises:
        ValueError: if the decoder has no such layer, or another likelihood than Bernoulli.
    """
    output: Any = getattr(decoder, "output", None)
    is_logit = isinstance(getattr(decoder, "likelihood", None), BernoulliLikelihood)
    has_layer = isinstance(output, nn.Linear) and output.out_features == mean_image.numel()
    if not is_logit or not has_layer or output.bias is None:
        raise ValueError(
            f"model.output_bias=data_mean needs a decoder with a linear layer 'output' of one logit for each "
            f"value, as MLPDecoder with a Bernoulli likelihood has; {type(decoder).__name__} has none."
        )
    output.bias.copy_(torch.logit(mean_image.flatten().clamp(*_MEAN_RANGE)))
