"""How far a catalogue is from a reference: matching, bias and scatter, pulls, by S/N."""
