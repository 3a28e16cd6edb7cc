"""One module per command. ``cli.py`` imports a module only when its command is called."""
