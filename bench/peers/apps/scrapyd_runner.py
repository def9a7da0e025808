"""What scrapyd runs in place of Scrapy: a spider that is over at once. ``list`` tells its name."""

import sys

if sys.argv[1] == "list":
    print("true")
