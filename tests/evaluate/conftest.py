import sys
from pathlib import Path

import pytest
from chat_server import ChatServer, model_tokenise

sys.path.append(str(Path(__file__).parents[1] / "tasks"))  # task_files

from benchmark_files import own, write_all


@pytest.fixture(scope="module")
def tokenise(tiny_model):
    return model_tokenise(tiny_model)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="module")
def everywhere(data, tmp_path_factory):
    """All benchmarks, and one that a YAML file describes, by name or path."""
    path = own(tmp_path_factory.mktemp("own"))
    return {**data, str(path): path.parent}


@pytest.fixture
def server(tokenise):
    with ChatServer(tokenise=tokenise) as server:
        yield server
