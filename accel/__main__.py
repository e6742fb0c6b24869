"""`python -m accel`, and so `accelerate launch -m accel`: the `accel` command."""

from accel.cli.app import main

if __name__ == "__main__":
    main()
