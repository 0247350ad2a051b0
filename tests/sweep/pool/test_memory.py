from pathlib import Path

import pytest

from vae_exp.sweep.pool import memory


def test_kills_of_the_control_group_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "memory.events").write_text("low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    monkeypatch.setattr(memory, "_own_group", lambda: tmp_path)
    assert memory.memory_kills() == 3


def test_without_a_control_group_those_of_the_machine_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "vmstat").write_text("nr_free_pages 12\noom_kill 2\n")
    monkeypatch.setattr(memory, "_own_group", lambda: tmp_path / "none")
    monkeypatch.setattr(memory, "_KERNEL", tmp_path / "vmstat")
    assert memory.memory_kills() == 2
    monkeypatch.setattr(memory, "_KERNEL", tmp_path / "neither")
    assert memory.memory_kills() == 0
