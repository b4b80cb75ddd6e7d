"""One JSON line of what pytest wrote with --junitxml: the last thing that `make test` prints."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree

suite = ElementTree.parse(sys.argv[1]).getroot().find("testsuite")
assert suite is not None, f"{sys.argv[1]} holds no test suite"
counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
sys.stdout.write(json.dumps({**counts, "seconds": round(float(suite.get("time", 0)), 1)}) + "\n")
