"""Files: written whole or not at all, and never through a link that somebody else made."""
