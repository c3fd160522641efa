"""Where files, models and runs come from: what the manifests beside them say, and whether that is still so."""
