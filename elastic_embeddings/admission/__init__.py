"""Which keys get a row: policies, the sketch that counts the others, and a dry run."""
