"""What MedE² itself says: how answers are read, and (as the pipeline grows) its prompts and criteria."""
