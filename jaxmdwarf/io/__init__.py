"""Every file format the package reads or writes."""
