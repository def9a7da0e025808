"""Replaces Scrapy for scrapyd: a spider that exits at once. ``list`` prints its name."""

import sys

if sys.argv[1] == "list":
    print("true")
