"""The folder of an export appears whole, replaces only an export, and leaves nothing after a failure."""

import json

import pytest

from vae_exp.errors import UserError
from vae_exp.export.output_folder import check_output, new_folder


def write_export(output, content: str) -> None:
    with new_folder(output) as folder:
        (folder / "decoder.pt2").write_text(content)
        (folder / "model.json").write_text(json.dumps({"files": {"decoder.pt2": {}}}))


def test_a_folder_appears_at_the_end_and_replaces_an_older_one(tmp_path):
    output = tmp_path / "made" / "for" / "it"
    for content in ("old", "new"):
        check_output(output, overwrite=True)
        write_export(output, content)
    assert (output / "decoder.pt2").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def write_until_the_disk_is_full(output) -> None:
    with new_folder(output) as folder:
        (folder / "decoder.pt2").write_text("half")
        raise OSError("No space left on device")


def test_a_failure_leaves_what_was_there(tmp_path):
    write_export(tmp_path / "out", "old")
    for output in (tmp_path / "out", tmp_path / "a" / "b"):
        with pytest.raises(UserError, match=r"output=.* cannot be written: No space"):
            write_until_the_disk_is_full(output)
    assert (tmp_path / "out" / "decoder.pt2").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_existing_folder_is_refused_unless_it_is_an_export(tmp_path):
    output = tmp_path / "out"
    write_export(output, "old")
    with pytest.raises(UserError, match=r"output=.*out exists; overwrite=true"):
        check_output(output, overwrite=False)
    check_output(output, overwrite=True)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"also has notes.txt, and stays"):
        check_output(output, overwrite=True)
    for content in (None, "[]", "{}", "no json"):
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        if content is not None:
            (other / "model.json").write_text(content)
        with pytest.raises(UserError, match=r"other is no export, and stays"):
            check_output(other, overwrite=True)
