"""Pytest plug-in of mqcore, loaded in every pytest run of everybody who installs it: imports the standard library only."""
