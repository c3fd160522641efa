import sys
from pathlib import Path

import pytest
from report_files import benchmark, evaluation
from reports import right_of

sys.path.extend(str(Path(__file__).parents[1] / room) for room in ("evaluate", "tasks"))  # benchmark_files, evaluating, task_files


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Twelve items with images."""
    return benchmark(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="session")
def scores(data, tmp_path_factory):
    """Two models, of which the second has six items more right."""
    folder = tmp_path_factory.mktemp("scores")
    evaluation(folder / "one", data, right_of(range(3)))
    evaluation(folder / "two", data, right_of(range(9)))
    return folder
