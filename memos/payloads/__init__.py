"""The files of derived cubes, whichever tier: found, checked against their rows, carried out and taken in."""
