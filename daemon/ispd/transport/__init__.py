"""Links that move bytes and know no protocol (floor 2). Each device library has exactly one importing module here."""
