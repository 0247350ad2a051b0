"""`python -m vae_exp.benchmark`: this engine, a plain loop and bare matrix products, side by side."""

from omegaconf import DictConfig

from vae_exp.entry_point import run_command


def main() -> None:
    """The command line."""
    run_command(_task, "benchmark")


def _task(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from vae_exp.benchmarking.measurement import measure
    from vae_exp.benchmarking.tables import print_tables
    from vae_exp.errors import UserError
    from vae_exp.run_directory import absolute_path, require_writable, write_json
    from vae_exp.settings import BenchmarkSettings, checked

    settings = checked(config, BenchmarkSettings)
    path = absolute_path("output", settings.output)
    if path.is_dir():
        raise UserError(f"output={settings.output} is a folder; name a file, such as output=benchmark.json.")
    require_writable(path.parent, "output")
    found = measure(config, settings, list(HydraConfig.get().overrides.task))
    write_json(path, found)
    print_tables(found)
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
