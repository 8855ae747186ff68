"""From bytes on the wire to one committed transaction: decode, validate, scrub, receive."""
