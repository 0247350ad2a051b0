"""`python -m vae_exp.dashboard`: the offline W&B dashboard, in a browser or in a file."""

import argparse
from math import inf
from pathlib import Path

from vae_exp.dashboard.explorer.options import ExploreOptions, check_run_directories
from vae_exp.dashboard.runs.discovery import check_roots
from vae_exp.errors import UserError, exit_with_message
from vae_exp.storage.column_files import SUFFIXES, check_suffix

_LOOPBACK = "127.0.0.1"
_PORT = 8765
_MEGABYTES = 50.0
_OF_SERVER = ("port", "bind", "open", "allow_notes")
_WITHOUT_EFFECT = {
    "without --export": ("no_labels", "history", "overwrite", "private", "last_pictures", "size_limit"),
    "with --export of a page": ("history", *_OF_SERVER),
    "with --export of a table": ("explore", "no_labels", "last_pictures", "size_limit", *_OF_SERVER),
}


def main() -> None:
    """Run the command line."""
    with exit_with_message():
        args = _make_parser().parse_args()
        check_roots(args.roots)
        check_run_directories("--explore", args.explore)
        if args.export is not None:
            _export(args)
        else:
            _check_effect(args, "without --export")
            from vae_exp.dashboard.web.server import serve

            serve(
                args.roots, ExploreOptions(args.explore),
                host=_LOOPBACK if args.bind is None else args.bind,
                port=_PORT if args.port is None else args.port,
                opens_browser=args.open, allows_notes=args.allow_notes,
            )  # fmt: skip


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vae_exp.dashboard",
        description="Show offline W&B runs in a browser while they are written, or write them into one page.",
    )
    parser.add_argument(
        "roots", nargs="*", type=Path, default=[Path()], metavar="ROOT",
        help="folders in which .wandb files are found at any depth, or such files; by default this folder",
    )  # fmt: skip
    parser.add_argument("--port", type=int, help=f"port on {_LOOPBACK}, by default {_PORT}; 0 takes any free one")
    parser.add_argument("--open", action="store_true", help="open the browser")
    parser.add_argument(
        "--allow-notes",
        action="store_true",
        help="let the page save notes of a run, as notes.md in its directory",
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE",
        help="write one self-contained page (.html), or a table, one row per run (.parquet, .csv, .npz), and exit",
    )  # fmt: skip
    parser.add_argument(
        "--explore", type=Path, action="append", default=[], metavar="RUN",
        help="a run directory, may be repeated: its latent space is part of an export, and where the page cannot "
        "decode, the server does",
    )  # fmt: skip
    parser.add_argument(
        "--no-labels", action="store_true", help="with --export: leave labels and class names out of latent spaces"
    )
    parser.add_argument("--history", action="store_true", help="with --export of a table: one row per logged step")
    parser.add_argument("--overwrite", action="store_true", help="with --export: replace the file if it exists")
    parser.add_argument(
        "--private", action="store_true",
        help="with --export: leave in what may name people and places: console, environment, absolute paths",
    )  # fmt: skip
    parser.add_argument(
        "--last-pictures", action="store_true",
        help="with --export of a page: leave out the pictures of which a run has later ones",
    )  # fmt: skip
    parser.add_argument(
        "--size-limit", type=float, metavar="MB", help=f"of the page that is exported, by default {_MEGABYTES:g}"
    )
    parser.add_argument(
        "--bind", metavar="ADDRESS",
        help=f"another address to listen on than {_LOOPBACK}; whoever has the printed address can then see "
        "everything",
    )  # fmt: skip
    return parser


def _check_effect(args: argparse.Namespace, kind: str) -> None:
    """Refuse options that would be ignored."""
    for name in _WITHOUT_EFFECT[kind]:
        value = getattr(args, name)
        if value is not None and value is not False and value != []:
            raise UserError(f"--{name.replace('_', '-')} has no effect {kind}.")


def _export(args: argparse.Namespace) -> None:
    is_page = args.export.suffix in (".html", ".htm")
    if not is_page:
        check_suffix("--export", args.export, (".html", *SUFFIXES))
    _check_effect(args, f"with --export of a {'page' if is_page else 'table'}")
    megabytes = _MEGABYTES if args.size_limit is None else args.size_limit
    if not 0 < megabytes < inf:
        raise UserError(f"--size-limit {megabytes}: expected megabytes, more than 0.")
    if args.export.is_file() and not args.overwrite:
        raise UserError(f"--export={args.export} exists; --overwrite replaces it.")
    if is_page:
        from vae_exp.dashboard.web.export import PageTooLargeError, export

        options = ExploreOptions(args.explore, has_labels=not args.no_labels)
        try:
            message = export(
                args.roots, args.export, options,
                private=args.private, max_megabytes=megabytes, last_pictures=args.last_pictures,
            )  # fmt: skip
        except PageTooLargeError as error:
            raise UserError(
                f"{error}: name folders with fewer runs, leave earlier pictures out (--last-pictures), or raise "
                f"--size-limit."
            ) from error
        print(message)
    else:
        from vae_exp.dashboard.web.table_export import export_table

        print(export_table(args.roots, args.export, private=args.private, history=args.history))


if __name__ == "__main__":
    main()
