"""Changes of the content of checkpoint files, for tests."""

from plastic_agents.checkpoint import checkpoint_kind, load_checkpoint, save_checkpoint


def rewrite(path, change):
    """Replace the content of a checkpoint by ``change(content)``, with a correct checksum."""
    kind = checkpoint_kind(path)
    save_checkpoint(path, kind, change(load_checkpoint(path, kind)))


def put(name, value):
    return lambda content: {**content, name: value}


def drop(name):
    return lambda content: {key: value for key, value in content.items() if key != name}


def within(name, change):
    return lambda content: {**content, name: change(content[name])}
