"""`python -m spin_train` is `spin-train`."""

from spin_train.cli import main

if __name__ == "__main__":
    main()
