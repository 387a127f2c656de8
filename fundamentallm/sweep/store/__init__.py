"""A sweep's runs on disk: the database that every worker shares, and the sweep's folder."""
