"""How the rows of a compressed model are stored: fewer bits a value, fewer columns, and back to float32."""
