"""`python -m vae_exp.explore run=DIR`: move through the latent space of a run, in a browser or in a file."""

from omegaconf import DictConfig

from vae_exp.cli.hydra_app import hydra_app, one_message_per_error

_PAGE = "latent"


def main() -> None:
    """The command line."""
    with hydra_app("explore") as app:
        app(explore)()


@one_message_per_error()
def explore(config: DictConfig) -> None:
    """Serve the page of latent spaces, or write it into a file."""
    from vae_exp.configuration.parsing import parse_config
    from vae_exp.configuration.schema import ExploreConfig
    from vae_exp.dashboard.explorer.options import ExploreOptions, check_run_directories
    from vae_exp.dashboard.web.export import PageTooLargeError, export
    from vae_exp.dashboard.web.server import serve
    from vae_exp.errors import UserError
    from vae_exp.runs.scores import find_runs
    from vae_exp.storage.atomic_io import absolute_path
    from vae_exp.storage.output_files import check_output_file

    settings = parse_config(config, ExploreConfig)
    paths = find_runs(settings.run)
    check_run_directories("run", paths)
    options = ExploreOptions(
        paths,
        settings.checkpoint,
        settings.data.root,
        settings.data.path,
        tuple(settings.trusted_packages),
        settings.labels,
    )
    if settings.output is None:
        view = f"#page={_PAGE}"
        serve(paths, options, host="127.0.0.1", port=settings.port, opens_browser=settings.open, view=view)
        return
    output = absolute_path("output", settings.output)
    if output.suffix not in (".html", ".htm"):
        raise UserError(f"output={settings.output} is a page: name a file that ends in .html.")
    check_output_file(output, overwrite=settings.overwrite)
    try:
        size = settings.size_limit
        print(export(paths, output, options, key="output", private=False, max_megabytes=size, opens_at=_PAGE))
    except PageTooLargeError as error:
        raise UserError(f"{error}: name fewer runs, or raise size_limit.") from error
    print(f"Open it as {output.as_uri()}")


if __name__ == "__main__":
    main()
