"""What is to be made, and under which key; nothing is computed here."""
