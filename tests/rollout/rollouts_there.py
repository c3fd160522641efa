"""Runs of the command that tests begin with, and how they are read."""

import json


def lines(out):
    return sorted(out.read_text("utf-8").splitlines())


def manifest(out):
    return json.loads(out.with_name(out.name + ".manifest.json").read_text("utf-8"))


def rewritten(out, to, **changed):
    """A copy of a run whose manifest says something else."""
    to.write_bytes(out.read_bytes())
    before = manifest(out)
    for name, value in changed.items():
        section, _, key = name.partition("__")
        before[section][key] = value
    to.with_name(to.name + ".manifest.json").write_text(json.dumps(before))
