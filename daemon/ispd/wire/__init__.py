"""Sans-IO codecs: bytes and their meaning (floor 2). Nothing here awaits, opens or imports a third-party module."""
