"""Starts a daemon of its own and fuzzes its REST API with schemathesis, by the OpenAPI document that the daemon serves.

Arguments: the daemon, seconds to fuzz. It is to be run in namespaces of its own (see rest.rs): what the fuzzer makes must not
reach this machine. Ends with status 0 when there was no 5xx and no answer outside the document.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

import requests

daemon, seconds = sys.argv[1], sys.argv[2]

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "use_after_free",
]
# Streams that never end, the way to lose the own token, and bytes that are no JSON: those have tests of their own.
LEFT_OUT = r"(:watch|/console|:upload|:logout|:wait)$"


def start(directory):
    """The daemon, where REST is, and the setup token."""
    process = subprocess.Popen(
        [daemon, "run", "--grpc", "127.0.0.1:0", "--rest", "127.0.0.1:0", "--vmm", "/nonexistent/vmm"]
        + [a for name in ("state", "run", "log") for a in (f"--{name}-dir", str(directory / name))],
        stderr=open(directory / "stderr", "w+", encoding="utf-8"),
    )
    token = address = None
    with open(directory / "stderr", encoding="utf-8") as lines:
        while not address:
            if process.poll() is not None:
                sys.exit(f"the daemon ended: {(directory / 'stderr').read_text()}")
            line = lines.readline()
            token = token or (re.search(r"qxs_\S+", line) or [None])[0]
            address = (re.search(r"rest:([0-9.:]+)", line) or [None, None])[1]
    return process, f"https://{address}", token


with tempfile.TemporaryDirectory() as name:
    directory = pathlib.Path(name)
    process, url, setup = start(directory)
    try:
        certificate = str(directory / "state/tls/node.crt")
        account = {"setupToken": setup, "name": "fuzzer", "password": "correct horse"}
        login = requests.post(f"{url}/v1/auth:setup", json=account, verify=certificate, timeout=30)
        login.raise_for_status()
        command = [f"{pathlib.Path(sys.executable).parent}/schemathesis", "run", f"{url}/openapi.json"]
        command += ["--tls-verify", certificate, "--header", f"Authorization: Bearer {login.json()['token']}"]
        command += ["--checks", ",".join(CHECKS), "--exclude-path-regex", LEFT_OUT, "--phases", "coverage,fuzzing"]
        command += ["--max-time", seconds, "--max-examples", "10", "--request-timeout", "20", "--workers", "2"]
        command += ["--generation-database", "none", "--suppress-health-check", "all", "--no-color", "--warnings", "off"]
        status = subprocess.run(command, cwd=directory, check=False).returncode
        if process.poll() is not None:
            sys.exit("the daemon did not survive")
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
    errors = [line for line in (directory / "stderr").read_text().splitlines() if " ERROR " in line or "panicked" in line]
    print(*errors[:20], sep="\n")
    sys.exit(status)
