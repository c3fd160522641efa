"""Where a pair or a score comes from, as far as manifests tell."""
