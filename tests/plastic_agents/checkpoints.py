"""What tests of checkpoints share: changing what a file holds."""

from plastic_agents.checkpoint import checkpoint_kind, load_checkpoint, save_checkpoint


def rewrite(path, change):
    """Write what ``change`` makes of a checkpoint's content; the checksum is right again."""
    kind = checkpoint_kind(path)
    save_checkpoint(path, kind, change(load_checkpoint(path, kind)))


def put(name, value):
    return lambda content: {**content, name: value}


def drop(name):
    return lambda content: {key: value for key, value in content.items() if key != name}


def within(part, change):
    return lambda content: {**content, part: change(content[part])}
