"""A small case: digits, two hidden layers on either side."""

from collections.abc import Callable

import pytest
import torch

from tests.composing import composed
from vae_exp.benchmark import suite
from vae_exp.benchmark.case import Case
from vae_exp.configuration.parsing import parse_config
from vae_exp.configuration.schema import BenchmarkConfig

CPU = torch.device("cpu")


@pytest.fixture
def make_cases() -> Callable[..., list[Case]]:
    def make(*overrides: str, device: torch.device = CPU) -> list[Case]:
        config = composed("benchmark", "data=digits", *overrides)
        return suite.make_cases(config, parse_config(config, BenchmarkConfig), device)

    return make


@pytest.fixture
def case(make_cases: Callable[..., list[Case]]) -> Case:
    [only] = make_cases("model.hidden_dims=[40,20]", "batch_size=[50]")
    return only
