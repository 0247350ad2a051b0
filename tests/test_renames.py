from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from vae_exp.configuration.renames import RENAMED_TARGETS
from vae_exp.configuration.stored_config import read_config
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.job_id import config_hash


def config_with(target: str) -> dict[str, object]:
    return {"data": {"source": {"_target_": target}}, "model": {"parts": [{"_target_": target}]}}


@pytest.mark.parametrize("old", RENAMED_TARGETS)
def test_a_stored_config_with_an_old_target_names_the_class_of_today(old: str, tmp_path: Path):
    directory = RunDirectory(tmp_path)
    directory.config.parent.mkdir()
    directory.config.write_text(OmegaConf.to_yaml(OmegaConf.create(config_with(old))))
    stored = OmegaConf.to_container(read_config(directory))
    assert stored == config_with(RENAMED_TARGETS[old])
    assert isinstance(get_class(RENAMED_TARGETS[old]), type)


@pytest.mark.parametrize("old", RENAMED_TARGETS)
def test_a_rename_leaves_the_hash_of_a_job_as_it_was(old: str):
    hashes = {config_hash(OmegaConf.create(config_with(name))) for name in (old, RENAMED_TARGETS[old])}
    assert len(hashes) == 1
