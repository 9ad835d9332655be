"""jaxmdwarf: raw low-resolution spectra of M dwarfs in, a catalogue out.

The package is a house of rooms with a one-way flow of data; each room imports only rooms above it:
``errors labels spectra quality wavelengths lsf`` -> ``simulate`` -> ``measure`` -> ``preprocess``
-> ``networks`` -> ``models`` -> ``inference`` -> ``diagnostics`` -> ``training`` -> ``catalogue``
-> ``io`` -> ``plots`` -> ``report`` -> ``workflows`` -> ``quickstart`` -> ``cli``.

Importing the package imports none of them and touches no device.
"""

__version__ = "0.1.0"
