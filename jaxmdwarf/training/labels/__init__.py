"""Labels of synthetic training sets: isochrones, mixture, co-distributed sampling."""
