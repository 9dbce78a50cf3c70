import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen


def test_the_server_starts_and_is_healthy(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", "0"]
    environment = {"DATABASE_URL": f"sqlite:///{tmp_path}/smoke.db", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        try:
            addresses = (re.search(r"running on (http://\S+)", line) for line in server.stderr)
            address = next(match[1] for match in addresses if match)
            with urlopen(f"{address}/health", timeout=10) as answer:
                assert json.load(answer) == {"status": "ok", "database": "sqlite"}
        finally:
            server.terminate()
