"""Process many samples on several cores or machines, with dask."""
