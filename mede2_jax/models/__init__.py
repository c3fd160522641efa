"""Models: arrays in, arrays out. No file formats, no mesh axes."""
