"""Meshes and sharding rules: the only place where mesh axes have names."""
