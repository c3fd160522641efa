#!/usr/bin/env bash
# Label Studio on this machine, with what `python -m mede2_jax.review export` wrote: its tasks, its labels, its images.
#
#   bash launch/label_studio.sh FOLDER                    starts it, and says where to go; Ctrl-C ends it, and what people said stays
#   bash launch/label_studio.sh FOLDER export export.json while it runs: what people have said so far
#
# It listens on this machine alone, at LABEL_STUDIO_PORT (8080). Its database and the login lie in FOLDER/.label-studio. More people: invite
# them on its page "Organization", through a tunnel or a proxy of your own; each task is given to LABEL_STUDIO_ANNOTATORS (1) of them.
set -euo pipefail
folder=${1:?give the folder that python -m mede2_jax.review export wrote}
folder=$(cd "$folder" && pwd)
what=${2:-start}
out=${3:+$(cd "$(dirname "$3")" && pwd)/$(basename "$3")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

[ -f "$folder/tasks.json" ] && [ -f "$folder/labels.xml" ] || stop "$folder has no tasks.json and labels.xml: python -m mede2_jax.review export writes them"
port=${LABEL_STUDIO_PORT:-8080}
url=http://127.0.0.1:$port
state=$folder/.label-studio
[[ ${LABEL_STUDIO_ANNOTATORS:-1} =~ ^[1-9][0-9]*$ ]] || stop "LABEL_STUDIO_ANNOTATORS=$LABEL_STUDIO_ANNOTATORS is no number of people"
make_environment label-studio >&2

if [ "$what" = export ]; then
  [ -f "$state/token" ] || stop "no Label Studio was started for $folder: bash launch/label_studio.sh $folder"
  exec "$ENV_PYTHON" launch/label_studio_project.py export "$folder" "$url" "$state/token" "${out:?say where to, such as export.json}"
fi
[ "$what" = start ] || stop "expected nothing or export after the folder, found '$what'"

# It would take another port by itself, and what answers on this one would be told the token.
"$ENV_PYTHON" -c 'import socket, sys; sys.exit(socket.socket().connect_ex(("127.0.0.1", int(sys.argv[1]))) == 0)' "$port" ||
  stop "port $port is in use; set LABEL_STUDIO_PORT to another"
mkdir -p "$state"
chmod 700 "$state"
for name in token password; do
  [ -f "$state/$name" ] || "$ENV_PYTHON" -c 'import secrets; print(secrets.token_hex(20))' >"$state/$name"
done
# Only the environment names the secrets: a command line is seen by everybody on this machine.
export LABEL_STUDIO_USERNAME=reviewer@localhost LABEL_STUDIO_PASSWORD LABEL_STUDIO_USER_TOKEN
LABEL_STUDIO_PASSWORD=$(cat "$state/password")
LABEL_STUDIO_USER_TOKEN=$(cat "$state/token")
export LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=$folder
export LABEL_STUDIO_COLLECT_ANALYTICS=false LABEL_STUDIO_LATEST_VERSION_CHECK=false
export LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK=true
say "Label Studio: starting on $url (a minute the first time)"
"${ENV_PYTHON%/python}/label-studio" start --no-browser --data-dir "$state" --internal-host 127.0.0.1 --port "$port" \
  --enable-legacy-api-token >"$state/log.txt" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
until "$ENV_PYTHON" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$url/health" 2>/dev/null; do
  kill -0 "$server" 2>/dev/null || stop "Label Studio has ended: $(tail -n 1 "$state/log.txt")"
  sleep 1
done
page=$("$ENV_PYTHON" launch/label_studio_project.py make "$folder" "$url" "$state/token")
say "review at $page"
say "log in as $LABEL_STUDIO_USERNAME with the password in $state/password"
say "what was said: bash launch/label_studio.sh $folder export export.json; Ctrl-C ends Label Studio"
wait "$server"
