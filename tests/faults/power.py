"""What a power failure may leave of a command's files: its calls, replayed.

Of a file there is what was synced; before that, nothing but its name. A directory has
the names of when it was synced. Of what was done to its names since, all may be lost,
or nothing, or one change alone: no file system has to keep their order. The lines of
logs stay: stories.find_unsynced looks whether they are synced in time.
"""

import pathlib
import shutil

import stories


class Node:
    """A file or directory.

    Attributes:
        content: pathlib.Path of what the disk has of a file; None: nothing.
        names: {name: Node} of a directory, as processes see it; None: it is a file.
        stored: likewise, as the disk has it.
        changes: list of {name: Node, or None: it is gone}, made since it was synced.
    """

    def __init__(self, content=None, is_directory=False):
        self.content = content
        self.names = {} if is_directory else None
        self.stored = {}
        self.changes = []

    def change(self, names):
        """Give and take names, {name: Node or None}."""
        self.names = fold(self.names, [names])
        self.changes.append(names)

    def sync(self, content):
        """Let the disk have what there is, of a file its content, a pathlib.Path."""
        if self.names is None:
            self.content = content
        else:
            self.stored, self.changes = self.names, []


def fold(names, changes):
    """Return {name: Node} after some changes; see Node."""
    for change in changes:
        names = names | change
    return {name: node for name, node in names.items() if node is not None}


def read(path):
    """Return the Node of a file, or of a directory and all in it, on the disk."""
    if not path.is_dir():
        return Node(path)
    node = Node(is_directory=True)
    node.names = node.stored = {child.name: read(child) for child in path.iterdir()}
    return node


class Disk:
    """The files of a stories.Story, and what the disk has of them."""

    def __init__(self, story):
        self.story = story
        self.root = Node(is_directory=True)
        if story.before is not None:
            self.root = read(story.before)
        self.num_synced = 0

    def find(self, path):
        """Return the Node of a path relative to the root, or None."""
        node = self.root
        for part in pathlib.PurePath(path).parts:
            if node is not None:
                node = (node.names or {}).get(part)
        return node

    def replay(self, call):
        """Do what a doomed.Call does, of which paths are relative to the root."""
        path, to = pathlib.PurePath(call.path), pathlib.PurePath(call.to)
        node, owner = self.find(path), self.find(path.parent)
        if node is None:
            if call.name in ('open', 'mkdir'):
                owner.change({path.name: Node(is_directory=call.name == 'mkdir')})
        elif call.name == 'fsync':
            self.num_synced += node.names is None
            node.sync(self.story.synced / str(self.num_synced))
        elif call.name in ('unlink', 'rmdir'):
            owner.change({path.name: None})
        elif call.name == 'rename' and path.parent == to.parent:
            owner.change({path.name: None, to.name: node})
        elif call.name == 'rename':
            owner.change({path.name: None})
            self.find(to.parent).change({to.name: node})

    def put(self, names_of, node=None, place='.'):
        """Write what there is below the root of the story.

        Args:
            names_of: function of the Node of a directory; returns its {name: Node}.
            node: of what is written, all by default.
            place: its path relative to the root.
        """
        node, target = node or self.root, self.story.root / place
        if node.names is not None:
            target.mkdir()
            for name, child in names_of(node).items():
                self.put(names_of, child, f'{place}/{name}')
        elif stories.is_stream(place):
            shutil.copyfile(self.story.after / place, target)
        elif node.content is None:
            target.touch()
        else:
            shutil.copyfile(node.content, target)

    def list_losses(self):
        """Yield (what is lost, function of a directory; see put), all that may be."""
        yield 'all that is not synced', lambda node: node.stored
        yield 'what is in files that are not synced', lambda node: node.names
        for place, owner in list_directories(self.root, pathlib.PurePath()):
            for i, change in enumerate(owner.changes):
                names = [
                    name
                    for name in change
                    if stories.is_final(place / name) and not stories.is_stream(name)
                ]
                if names:
                    others = owner.changes[:i] + owner.changes[i + 1 :]
                    left = fold(owner.stored, others)
                    yield (
                        f'what was done to {place / names[0]} alone',
                        lambda node, at=owner, left=left: (
                            left if node is at else node.names
                        ),
                    )


def list_directories(node, place):
    """Yield (path, Node) of a directory, which lies at a path, and of all below it."""
    yield place, node
    for name, child in node.names.items():
        if child.names is not None:
            yield from list_directories(child, place / name)


def is_about_a_name(call):
    """Say whether a doomed.Call gives or takes the name of a result."""
    is_given = call.name == 'rename' and stories.is_final(call.to)
    return is_given or (call.name == 'unlink' and stories.is_final(call.path))


def fail(story):
    """Leave in a story's root what a power failure may, one after the other.

    It comes after each call that gives or takes the name of a result, and at the end.

    Yields:
        what is there then, as a text; each state once.
    """
    disk, seen = Disk(story), set()
    calls = [below(call, story.root) for call in story.calls]
    for call in filter(None, calls):
        disk.replay(call)
        if not is_about_a_name(call) and call is not calls[-1]:
            continue
        for lost, names_of in disk.list_losses():
            shutil.rmtree(story.root, ignore_errors=True)
            disk.put(names_of)
            state = stories.fingerprint(story.root)
            if state not in seen:
                seen.add(state)
                yield f'after {" ".join(call[1:])}, {lost} is lost'
    assert disk.num_synced == len(list(story.synced.iterdir()))


def below(call, root):
    """Return a doomed.Call with paths relative to a root, or None: it is outside."""
    root = pathlib.PurePath(root)
    paths = [pathlib.PurePath(path) for path in (call.path, call.to or root)]
    if not all(path.is_relative_to(root) for path in paths):
        return None
    return call._replace(
        **{
            name: str(path.relative_to(root))
            for name, path in zip(('path', 'to'), paths, strict=True)
        }
    )
