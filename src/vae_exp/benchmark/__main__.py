"""`python -m vae_exp.benchmark`: this engine, a plain loop and bare matrix products, side by side."""

from omegaconf import DictConfig

from vae_exp.cli.hydra_app import hydra_app, one_message_per_error


def main() -> None:
    """The command line."""
    with hydra_app("benchmark") as app:
        app(benchmark)()


def benchmark(config: DictConfig) -> None:
    """Measure, print and write the tables."""
    with one_message_per_error():
        from hydra.core.hydra_config import HydraConfig

        from vae_exp.benchmark.report import print_tables
        from vae_exp.benchmark.suite import run_benchmark
        from vae_exp.configuration.parsing import parse_config
        from vae_exp.configuration.schema import BenchmarkConfig
        from vae_exp.errors import UserError
        from vae_exp.storage.atomic_io import absolute_path, check_writable, write_json

        settings = parse_config(config, BenchmarkConfig)
        path = absolute_path("output", settings.output)
        if path.is_dir():
            raise UserError(f"output={settings.output} is a folder; name a file, such as output=benchmark.json.")
        check_writable(path.parent, "output")
        results = run_benchmark(config, settings, list(HydraConfig.get().overrides.task))
        write_json(path, results)
        print_tables(results)
        print(f"Written to {path}")


if __name__ == "__main__":
    main()
