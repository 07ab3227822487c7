"""What a first visit of the pages transfers, and what they add to the program"""

import gzip
import os
import re
import urllib.parse
import urllib.request

import harness


def visit(url, path):
    """Every file that a first visit to a page loads, with what was transferred: the headers and the body."""
    found, waiting, first = {}, [path], None
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        request = urllib.request.Request(url + path, headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(request) as response:
            body = response.read()
            headers = len(str(response.headers))
            if response.headers["Content-Encoding"] != "gzip":
                raise SystemExit(f"{path} came without compression")
        found[path] = headers + len(body)
        text = gzip.decompress(body).decode()
        names = re.findall(r'(?:src|href)="([^"#:]+)"', text) if path.endswith("/") else []
        names = [name for name in names if not name.startswith("..") and name != "./"]
        if path.endswith(".js") and "/vendor/swagger" not in path:
            # Modules load others by a relative name.
            names += re.findall(r'''(?:from|import)\s*["'](\.[^"']+)["']''', text)
        if path.endswith(".css") and "/vendor/" not in path:
            names += re.findall(r'url\("([^"]+)"\)', text)
        waiting += [urllib.parse.urljoin(path, name) for name in names]
    return found


def main():
    rows = []
    with harness.directory() as dir:
        env = {name: value for name, value in os.environ.items() if not name.startswith("TOLLHOUSE_")}
        command = [harness.PROGRAM, "serve", "--dev", "--listen", "127.0.0.1:0"]
        with harness.Program(command, dir, env=env) as server:
            for name in ["console", "docs"]:
                files = visit(server.url, f"/{name}/")
                rows.append((f"`/{name}/`", len(files), sum(files.values())))
    print("| first visit | files | transferred, headers and all, kB |\n| --- | ---: | ---: |")
    for name, files, size in rows:
        print(f"| {name} | {files} | {size / 1000:,.1f} |")
    tables = list(harness.TARGET.glob("release/build/tollhouse-*/out/pages.rs"))
    newest = max(tables, key=lambda table: table.stat().st_mtime)
    embedded = {}
    for path, file in re.findall(r'path: "/(\w+)/.*?include_bytes!\("([^"]+)"\)', newest.read_text()):
        embedded[path] = embedded.get(path, 0) + len(open(file, "rb").read())
    program = harness.PROGRAM.stat().st_size
    pages = sum(embedded.values())
    print("\n| the program, as built for release | MB |\n| --- | ---: |")
    print(f"| with the pages | {program / 1e6:.2f} |")
    print(f"| without them | {(program - pages) / 1e6:.2f} |")
    for name, size in embedded.items():
        print(f"| of the pages, `/{name}/` | {size / 1e6:.2f} |")


main()
