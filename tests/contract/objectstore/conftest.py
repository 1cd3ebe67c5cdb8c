from pathlib import Path

import pytest

from tests.contract.objectstore.places import PLACES, Place
from vmkeep.objectstore.store import Store


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path)


@pytest.fixture
def store(place: Place) -> Store:
    return place.store
