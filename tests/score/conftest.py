import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "tasks"):
    sys.path.append(str(folder))
