"""Stanford Online Products: 22634 products in twelve categories, sold on eBay.

    Ebay_train.txt    train, 11318 classes
    Ebay_test.txt     test, the 11316 others

After a heading, a line is `1 1 1 bicycle_final/111085122871_0.JPG`: image, class,
category and path. The class is the PID. Retrieval is judged with the test images as
both query and gallery; let excluders/diagonal.py keep an image from finding itself.

Source: Song et al. 2016, "Deep Metric Learning via Lifted Structured Feature
Embedding", arXiv:1511.06452. The counts are the published ones; no copy was at hand to
count.
"""

from data import _lists

COMPLETE = {'train': 59551, 'test': 60502}


def read(root):
    """Return the rows of the two lists; see data/__init__.py."""
    return {
        'train': read_list(root, 'Ebay_train.txt'),
        'test': read_list(root, 'Ebay_test.txt'),
    }


def read_list(root, filename):
    """Return the (pid, fid) of one list."""
    table = _lists.read_table(root, filename, 'image_id class_id super_class_id path')
    return [(class_id, path) for _, class_id, _, path in table]
