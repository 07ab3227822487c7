"""transfer size of a first visit to the pages, time to open an operation, and the pages' share of the program's size."""

import gzip
import json
import os
import re
import statistics
import subprocess
import urllib.parse
import urllib.request

import harness


def visit(url, path, fetched):
    """Loads every file of a first visit to a page, and what the page fetches. Returns the transferred bytes, with
    headers, by path."""
    sizes = {}
    pending = [path, *fetched]
    while pending:
        path = pending.pop()
        if path in sizes:
            continue
        request = urllib.request.Request(url + path, headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(request) as response:
            body = response.read()
            headers = len(str(response.headers))
            if response.headers["Content-Encoding"] != "gzip":
                raise SystemExit(f"{path} is not compressed")
        sizes[path] = headers + len(body)
        text = gzip.decompress(body).decode()
        names = re.findall(r'(?:src|href)="([^"#:]+)"', text) if path.endswith("/") else []
        names = [name for name in names if not name.startswith("..") and name != "./"]
        if path.endswith(".js"):
            # Modules import others by a relative path.
            names += re.findall(r'''(?:from|import)\s*["'](\.[^"']+)["']''', text)
        if path.endswith(".css") and "/vendor/" not in path:
            names += re.findall(r'url\("([^"]+)"\)', text)
        pending += [urllib.parse.urljoin(path, name) for name in names]
    return sizes


def opening_times(url):
    """The milliseconds in which the reference opens each of ten operations in Chromium."""
    package = harness.TARGET / "node" / "package.json"
    if not package.exists():
        raise SystemExit(f"{package} is missing; run scripts/test")
    command = ["node", harness.BENCHES / "open_operations.mjs", package, url]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    rows = []
    with harness.directory() as dir:
        env = {name: value for name, value in os.environ.items() if not name.startswith("TOLLHOUSE_")}
        command = [harness.PROGRAM, "serve", "--dev", "--listen", "127.0.0.1:0"]
        with harness.Program(command, dir, env=env) as server:
            for name, fetched in [("console", []), ("docs", ["/openapi.json"])]:
                files = visit(server.url, f"/{name}/", fetched)
                rows.append((f"`/{name}/`", len(files), sum(files.values())))
            times = opening_times(server.url)
    print("| first visit | files | transferred with headers, kB |\n| --- | ---: | ---: |")
    for name, files, size in rows:
        print(f"| {name} | {files} | {size / 1000:,.1f} |")
    print("\n| an operation opens in | ms |\n| --- | ---: |")
    print(f"| median of {len(times)} | {statistics.median(times):.0f} |")
    print(f"| slowest | {max(times):.0f} |")
    tables = list(harness.TARGET.glob("release/build/tollhouse-*/out/pages.rs"))
    newest = max(tables, key=lambda table: table.stat().st_mtime)
    embedded = {}
    for path, file in re.findall(r'path: "/(\w+)/.*?include_bytes!\("([^"]+)"\)', newest.read_text()):
        embedded[path] = embedded.get(path, 0) + len(open(file, "rb").read())
    program = harness.PROGRAM.stat().st_size
    pages = sum(embedded.values())
    print("\n| release binary | MB |\n| --- | ---: |")
    print(f"| with the pages | {program / 1e6:.2f} |")
    print(f"| without the pages | {(program - pages) / 1e6:.2f} |")
    for name, size in embedded.items():
        print(f"| pages of `/{name}/` | {size / 1e6:.2f} |")


main()
