"""Search spaces, and the searches that choose values from them."""
