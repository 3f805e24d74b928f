"""What tests of checkpoints share: changing what a file holds."""

from agents.checkpoint import checkpoint_kind, load_checkpoint, save_checkpoint


def rewrite(path, change):
    """Change the content of a checkpoint, in place or into what ``change`` returns; the checksum is right again."""
    kind = checkpoint_kind(path)
    content = load_checkpoint(path, kind)
    changed = change(content)
    save_checkpoint(path, kind, content if changed is None else changed)
