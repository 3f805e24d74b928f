"""What tests of checkpoints share: changing what a file holds, and damaging it."""

from agents.checkpoint import checkpoint_kind, load_checkpoint, save_checkpoint, with_checksum


def rewrite(path, change):
    """Change the content of a checkpoint, in place or into what ``change`` returns; the checksum is right again."""
    kind = checkpoint_kind(path)
    content = load_checkpoint(path, kind)
    changed = change(content)
    save_checkpoint(path, kind, content if changed is None else changed)


def archive(path):
    """What stands before the checksum."""
    return path.read_bytes()[: -len(with_checksum(b""))]
