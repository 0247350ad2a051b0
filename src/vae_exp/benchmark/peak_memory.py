"""A short training of one contender in a process of its own; prints its peak memory.

The order comes as JSON on standard input, from `vae_exp.benchmark.memory`.
"""

import json
import sys

import torch
from omegaconf import OmegaConf

from vae_exp.benchmark.candidates import Case, entrants
from vae_exp.benchmark.cases import training_images
from vae_exp.benchmark.memory import host_peak
from vae_exp.configuration.schema import BenchmarkConfig, checked

_MOST_STEPS = 600


def main() -> None:
    """Read the order, train for an epoch (at most 600 steps), print the peaks in bytes."""
    imported = host_peak()
    order = json.load(sys.stdin)
    settings = checked(OmegaConf.create(order["config"]), BenchmarkConfig)
    _, step, precision = order["contender"].split("/") if "/" in order["contender"] else ("", "eager", "fp32")
    images = training_images(settings.data, order["batch_size"])
    case = Case(order["config"], images, order["batch_size"], torch.device(order["device"]))
    [entrant] = [each for each in entrants(case, [step], [precision]) if each.name == order["contender"]]
    entrant.build().burst(min(_MOST_STEPS, len(images) // order["batch_size"]))
    print(json.dumps({"imported": imported, "peak": host_peak()}))


if __name__ == "__main__":
    main()
