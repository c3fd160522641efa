"""People in the loop: what they are to review as tasks of Label Studio, what they said, and whether judge and people agree."""
