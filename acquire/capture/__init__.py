"""Take fields: expose, check the frames, write them, account for them."""
