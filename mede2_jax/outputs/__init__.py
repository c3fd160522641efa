"""What commands that write records share: a file held and appended, its manifest, how far a run is, how it ends."""
