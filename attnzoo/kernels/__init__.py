"""The kernels, one family a file."""

from attnzoo.kernels.additive import Additive as Additive
from attnzoo.kernels.bigbird import BigBird as BigBird
from attnzoo.kernels.nadaraya_watson import NadarayaWatson as NadarayaWatson
from attnzoo.kernels.sliding_window import SlidingWindow as SlidingWindow
from attnzoo.kernels.softmax import Softmax as Softmax
