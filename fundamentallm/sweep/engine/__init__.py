"""Running a sweep: claiming runs, a process for each trial, and what they report."""
