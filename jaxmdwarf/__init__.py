"""jaxmdwarf: raw low-resolution spectra of M dwarfs in, a catalogue out.

The package is a house of rooms with a one-way flow of data; each room imports only rooms above it:
``spectra labels quality errors wavelengths lsf`` -> ``simulate`` -> ``preprocess`` -> ``networks``
-> ``models`` -> ``inference`` -> ``training`` -> ``measure`` -> ``catalogue`` -> ``validate`` ->
``plots`` -> ``io`` -> ``pipeline`` -> ``cli``.

Importing the package imports none of them and touches no device.
"""

__version__ = "0.1.0"
