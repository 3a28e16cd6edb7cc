"""The parts of a build, in the order of their work: ``build.py`` calls them one after the other."""
