"""Python API: everything that `import fundamentallm` offers, in one place for each subject."""
