"""``python -m pyro_omics.cli``: the command ``pyro-omics``."""

from pyro_omics.cli import main

if __name__ == "__main__":
    main()
