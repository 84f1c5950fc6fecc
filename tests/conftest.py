"""What holds for every test."""

# Before anything imports TensorFlow: common.py sets how it computes, and a test that
# compares a run within pytest with one of a command needs the same arithmetic in both.
import common  # noqa: F401
