"""A run directory from somebody else is data: nothing it names is imported, let alone called."""

import copy
import sys
from pathlib import Path

import pytest
import yaml

import vae_exp
from vae_exp.errors import UserError

HOSTILE = {
    "os.system": ("model.encoder", "os.system"),
    "builtins.eval": ("model.decoder", "builtins.eval"),
    "torch.hub.load": ("model.encoder", "torch.hub.load"),
    "torch.load": ("model.prior", "torch.load"),
    "a function of torch.nn": ("model.encoder", "torch.nn.init.zeros_"),
    "a class of another kind": ("model.encoder", "torch.optim.Adam"),
    "a loader of models": ("model.encoder", "torchvision.models.get_model"),
    "a way round through a module": ("model.encoder", "torch.nn.functional.torch.load"),
    "a class of ours where none belongs": ("model.encoder", "vae_exp.data.digits.DigitsSource"),
    "a command of ours": ("loss", "vae_exp.train.main"),
    "subprocess in the data": ("data.source", "subprocess.Popen"),
    "an optimiser from elsewhere": ("optimizer", "shutil.rmtree"),
    "a scheduler from elsewhere": ("scheduler", "os.remove"),
    "an evaluator from elsewhere": ("evaluator.elbo", "os.system"),
    "a relative name": ("model.encoder", "..os.system"),
    "an empty name": ("model.encoder", ""),
    "not a name": ("model.encoder", "__import__('os').system"),
    "a name that is a number": ("model.encoder", 3),
}


@pytest.fixture
def stored(copied_run: Path):
    """Change the stored config by dotted key, then return the run."""

    def change(key: str, value: object) -> Path:
        path = copied_run / ".hydra" / "config.yaml"
        config = yaml.safe_load(path.read_text())
        node = config
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = copy.deepcopy(value)
        path.write_text(yaml.safe_dump(config))
        return copied_run

    return change


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_target_is_refused(case, stored):
    key, target = HOSTILE[case]
    run = stored(f"{key}._target_", target)
    with pytest.raises(UserError, match=f"{key}._target_|dotted name"):
        vae_exp.load_run(run)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path whose import leaves a mark, with an encoder of the right kind."""
    mark = tmp_path / "imported"
    (tmp_path / "their_package.py").write_text(
        f"open({str(mark)!r}, 'a').close()\n"
        "from vae_exp.model.encoders import MLPEncoder\n"
        "class TheirEncoder(MLPEncoder):\n    pass\n"
        "def not_a_class(**anything):\n    return MLPEncoder(**anything)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_package", raising=False)
    return mark


def test_a_right_class_of_an_untrusted_package_is_refused_before_it_is_imported(stored, package):
    run = stored("model.encoder._target_", "their_package.TheirEncoder")
    with pytest.raises(UserError, match=r"trusted_packages=\[their_package\]"):
        vae_exp.load_run(run)
    assert not package.exists()
    assert type(vae_exp.load_run(run, trusted_packages=["their_package"]).vae.encoder).__name__ == "TheirEncoder"
    assert package.exists()


def test_trust_extends_to_the_package_and_not_to_a_namesake(stored, package):
    run = stored("model.encoder._target_", "their_package.TheirEncoder")
    with pytest.raises(UserError, match="refused"):
        vae_exp.load_run(run, trusted_packages=["their"])
    assert not package.exists()


def test_a_trusted_package_still_gives_only_classes_of_the_right_kind(stored, package):
    run = stored("model.encoder._target_", "their_package.not_a_class")
    with pytest.raises(UserError, match=r"not a torch\.nn\.Module"):
        vae_exp.load_run(run, trusted_packages=["their_package"])


def test_nothing_is_imported_when_one_of_several_targets_is_refused(stored, package):
    stored("model.encoder._target_", "their_package.TheirEncoder")
    run = stored("model.decoder._target_", "os.system")
    with pytest.raises(UserError, match=r"os\.system"):
        vae_exp.load_run(run, trusted_packages=["their_package"])
    assert not package.exists()


@pytest.mark.parametrize("key", ["model.encoder.inner", "extra", "tracker.tags", "data.extra"])
def test_a_target_where_none_belongs_is_refused(key, stored):
    run = stored(key, {"_target_": "os.system"} if key != "tracker.tags" else [{"_target_": "os.system"}])
    with pytest.raises(UserError, match="refused"):
        vae_exp.load_run(run)


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_convert_", "_recursive_"])
def test_hydras_other_switches_are_refused(key, stored):
    with pytest.raises(UserError, match=key):
        vae_exp.load_run(stored(f"model.encoder.{key}", True))


@pytest.mark.parametrize("hidden", ["\\${oc.create:{_target_:os.system}}", "\\\\\\${oc.env:HOME}"])
def test_an_interpolation_that_would_resolve_later_is_refused(hidden, stored):
    with pytest.raises(UserError, match=r"refused|resolved|key of the config"):
        vae_exp.load_run(stored("model.encoder.inner", hidden))


def test_an_interpolation_that_makes_a_target_is_refused(stored):
    stored("sweep.name", "os.system")
    with pytest.raises(UserError, match=r"os\.system"):
        vae_exp.load_run(stored("model.encoder._target_", "${sweep.name}"))


def test_no_resolver_of_the_process_is_called(stored, tmp_path):
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("leaves_a_mark", (tmp_path / "mark").touch, replace=True)
    for value in (
        "${leaves_a_mark:}",
        "x${ leaves_a_mark: }",
        "${model.${leaves_a_mark:}}",
        "${oc.env:A,${leaves_a_mark:}}",
    ):
        with pytest.raises(UserError, match="calls a resolver"):
            vae_exp.load_run(stored("tracker.name", value))
    assert not (tmp_path / "mark").exists()


def test_environment_variables_may_be_read(stored, monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch")
    run = vae_exp.load_run(stored("data.root", "${oc.env:SCRATCH}/data"))
    assert run.config["data"]["root"] == "/scratch/data"


@pytest.mark.parametrize("name", ["config.yaml", "hydra.yaml"])
@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "a: &a [1, 2]\nb: [*a, *a]", "[" * 3000], ids=["cycle", "alias", "deep"]
)
def test_yaml_that_unfolds_without_bound_is_refused(name, text, copied_run):
    (copied_run / ".hydra" / name).write_text(text)
    with pytest.raises(UserError, match=name):
        vae_exp.load_run(copied_run)


LOGGING = {"version": 1, "handlers": {"evil": {"()": "os.system", "command": "true"}}}


def test_a_logging_configuration_with_a_callable_is_refused_in_the_config(stored):
    with pytest.raises(UserError, match=r"\(\)"):
        vae_exp.load_run(stored("hydra.job_logging", LOGGING))


def test_a_logging_configuration_with_a_callable_is_refused_in_hydras_own_file(copied_run):
    path = copied_run / ".hydra" / "hydra.yaml"
    stored = yaml.safe_load(path.read_text())
    stored["hydra"]["job_logging"] = LOGGING
    path.write_text(yaml.safe_dump(stored))
    with pytest.raises(UserError, match=r"callable .*hydra\.job_logging\.handlers\.evil"):
        vae_exp.load_run(copied_run)


def test_a_python_object_in_the_yaml_is_refused(copied_run):
    path = copied_run / ".hydra" / "config.yaml"
    path.write_text(path.read_text() + "\nextra: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match=r"config\.yaml"):
        vae_exp.load_run(copied_run)


@pytest.mark.parametrize("command_name", ["evaluate", "generate"])
@pytest.mark.parametrize("case", ["os.system", "builtins.eval", "torch.hub.load", "torch.load"])
def test_the_commands_refuse_too(command_name, case, stored, command):
    key, target = HOSTILE[case]
    run = stored(f"{key}._target_", target)
    finished = command(command_name, f"run={run}")
    assert finished.code == 1
    assert f"{key}._target_={target}" in finished.err
    assert not (run / "evaluation").exists()
    assert not (run / "generated").exists()


def test_the_commands_accept_what_the_caller_trusts(stored, package, command):
    run = stored("model.encoder._target_", "their_package.TheirEncoder")
    refused = command("evaluate", f"run={run}")
    assert refused.code == 1
    assert "trusted_packages=[their_package]" in refused.err
    assert not package.exists()
    accepted = command("evaluate", f"run={run}", "trusted_packages=[their_package]", "evaluator=[elbo]")
    assert accepted.code == 0, accepted.err
