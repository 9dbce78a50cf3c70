#!/usr/bin/env bash
# Goes through the application as a user would: ./e2e.sh http://staging.prompt-stack.localhost
set -euo pipefail
url=${1:?the address of the application}
ask() { curl --fail-with-body --silent --show-error --max-time 10 --header 'Content-Type: application/json' "$@"; }

ask "$url/api/health" | grep --quiet '"status":"ok"' && echo "The back end is well"
ask "$url/" | grep --quiet '<div id="root">' && echo "The front end is there"

name=e2e-$RANDOM$RANDOM
id=$(ask "$url/api/prompts" --data "{\"name\": \"$name\", \"text\": \"Explain {topic} to {reader}\"}" | sed 's/.*"id":\([0-9]*\).*/\1/')
filled=$(ask "$url/api/prompts/$id/fill" --data '{"values": {"topic": "canaries", "reader": "a miner"}}')
[ "$filled" = '{"text":"Explain canaries to a miner"}' ] || { echo "a prompt is filled in wrongly: $filled" >&2; exit 1; }
echo "A prompt was kept and filled in"
