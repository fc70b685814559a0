"""How objects were made, as plain data; folders of weights and configuration; files that are whole or not there."""
