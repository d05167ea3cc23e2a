"""What a person looks at after a run: the report, and what goes out of it to other programs."""
