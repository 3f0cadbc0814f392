"""Personal data and secrets: found in requests, replaced on the way out, put back in the answer."""
