"""The command line: the only folder that imports click, a file a command."""
