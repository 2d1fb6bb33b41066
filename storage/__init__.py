"""What is kept: survey stores, FITS, PINK binary files, catalogues."""
