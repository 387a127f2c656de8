"""Files of ours: written whole or not at all, and never through a link from somebody else."""
