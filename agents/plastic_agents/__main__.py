"""``python -m plastic_agents`` runs the command line, as ``plastic-rnn`` does."""

from plastic_agents.cli.main import main

if __name__ == "__main__":
    main()
