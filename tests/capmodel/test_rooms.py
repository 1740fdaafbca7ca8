"""Rooms: each says what it is for and lists what others use; importing one imports neither torch nor its modules."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

from captionbeam import capmodel

ROOMS = [one.name for one in pkgutil.walk_packages(capmodel.__path__, "captionbeam.capmodel.") if one.ispkg]
HEAVY = "captionbeam.capmodel.encoders.backbones"


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_has_what_it_lists(name):
    room = importlib.import_module(name)
    assert room.__doc__
    assert len([one for one in pkgutil.iter_modules(room.__path__) if not one.ispkg]) <= 14
    modules = {one.name for one in pkgutil.iter_modules(room.__path__)}
    assert {name for name in room.__all__ if name not in modules and not hasattr(room, name)} == set()
    with pytest.raises(AttributeError):
        _ = room.nothing_of_that_name


def test_a_room_is_imported_without_torch():
    light = [name for name in ROOMS if name != HEAVY]
    code = f"import sys, {', '.join(light)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
