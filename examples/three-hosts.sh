#!/usr/bin/env bash
# Agents on three hosts hold a conversation by kv, latents and text, and one host is killed in the middle of it: see three-hosts.ts.
#
#   examples/three-hosts.sh [--hub] [--processes]
#
# The hosts are network namespaces on a bridge, each with processes of its own, when this runs as root; else, or with --processes, processes of this machine.
# The bus is a nats-server; with --hub it is a hub over HTTP. Ends with 0 if every answer is right. Everything that it sets up is removed again.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
id=$$
hosts=(north west south)
network=198.18.$((id % 256)) # of the block for tests of networks (RFC 2544)
bridge=lw$id
hub=no
namespaces=yes

for option in "$@"; do
  case $option in
    --hub) hub=yes ;;
    --processes) namespaces=no ;;
    *) echo "unknown option $option; there are --hub and --processes" >&2; exit 2 ;;
  esac
done
if [[ $hub == no ]] && ! command -v nats-server >/dev/null; then
  echo "nats-server is not installed (Debian, Ubuntu: apt-get install nats-server; else https://nats.io/download). --hub does without." >&2
  exit 2
fi

mkdir -p "$root/build"
folder=$(mktemp -d "$root/build/three-hosts-XXXXXX") # inside of the package, where its name leads to itself
bus_pid=
asker_pid=

clean_up() {
  trap - EXIT INT TERM HUP
  for pid in $asker_pid $bus_pid; do
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  # the kernel drops them with their namespaces, but later
  for link in /sys/class/net/"$bridge"-*; do
    if [[ -e $link ]]; then ip link delete "${link##*/}" || true; fi
  done
  for host in "${hosts[@]}"; do
    if [[ -e /run/netns/$bridge-$host ]]; then
      ip netns pids "$bridge-$host" | xargs -r kill -9 2>/dev/null || true
      ip netns delete "$bridge-$host" || true
    fi
  done
  if [[ -e /sys/class/net/$bridge ]]; then ip link delete "$bridge" || true; fi
  rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

make_namespaces() {
  [[ $(id -u) == 0 ]] && command -v ip unshare >/dev/null || return 1
  ip link add "$bridge" type bridge && ip address add "$network.1/24" dev "$bridge" && ip link set "$bridge" up || return 1
  local number=2 host
  for host in "${hosts[@]}"; do
    ip netns add "$bridge-$host" &&
      ip link add "$bridge-$number" type veth peer name eth0 netns "$bridge-$host" &&
      ip link set "$bridge-$number" master "$bridge" up &&
      ip -n "$bridge-$host" address add "$network.$number/24" dev eth0 &&
      ip -n "$bridge-$host" link set eth0 up &&
      ip -n "$bridge-$host" link set lo up || return 1
    number=$((number + 1))
  done
  ip netns exec "$bridge-north" unshare --pid --fork --mount-proc true
}

if [[ $namespaces == yes ]] && ! make_namespaces 2>"$folder/refused"; then
  echo "no network namespaces here ($(tail -n 1 "$folder/refused" || true)): three processes instead"
  namespaces=no
fi

address=127.0.0.1
LATENTWIRE_HOSTS=
if [[ $namespaces == yes ]]; then
  address=$network.1
  # processes of their own too: what is another host shares no memory
  for host in "${hosts[@]}"; do
    LATENTWIRE_HOSTS+="ip netns exec $bridge-$host unshare --pid --fork --kill-child --mount-proc"$'\n'
  done
fi
# begins with a letter: nats-server reads the variable as a value of its configuration, and takes what begins like a number for one
LATENTWIRE_TOKEN="t$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
export LATENTWIRE_HOSTS LATENTWIRE_TOKEN

# TypeScript, without its types
cat >"$folder/translate.mjs" <<'EOF'
import fs from "node:fs";
import ts from "typescript";
const [from, to] = process.argv.slice(2);
const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext };
fs.writeFileSync(to, ts.transpileModule(fs.readFileSync(from, "utf8"), { compilerOptions }).outputText);
EOF
node "$folder/translate.mjs" "$root/examples/three-hosts.ts" "$folder/three-hosts.mjs"

wait_for() { # until there is something in a file, while the bus runs
  until [[ -s $1 ]]; do
    if ! kill -0 "$bus_pid" 2>/dev/null; then
      cat "$folder/bus.log" >&2
      exit 1
    fi
    sleep 0.1
  done
}

if [[ $hub == yes ]]; then
  node "$folder/three-hosts.mjs" hub "http://$address:0" >"$folder/address" 2>"$folder/bus.log" &
  bus_pid=$!
  wait_for "$folder/address"
  LATENTWIRE_BUS=$(head -n 1 "$folder/address")
else
  printf '%s\n' "listen: \"$address:-1\"" 'authorization { token: $LATENTWIRE_TOKEN }' "ports_file_dir: \"$folder\"" \
    "jetstream { store_dir: \"$folder/store\" }" >"$folder/nats.conf"
  nats-server -c "$folder/nats.conf" 2>"$folder/bus.log" &
  bus_pid=$!
  # `.ports` is written when it listens
  until ports=$(compgen -G "$folder/*.ports"); do
    if ! kill -0 "$bus_pid" 2>/dev/null; then cat "$folder/bus.log" >&2; exit 1; fi
    sleep 0.1
  done
  wait_for "$ports"
  LATENTWIRE_BUS=$(sed -n 's/.*"nats": *\[ *"\([^"]*\)".*/\1/p' <(tr -d '\n' <"$ports"))
fi
export LATENTWIRE_BUS
[[ $namespaces == yes ]] && echo "three network namespaces, bus at $LATENTWIRE_BUS" || echo "three processes, bus at $LATENTWIRE_BUS"

# in the background, so that a signal is heard while it runs
node "$folder/three-hosts.mjs" ask &
asker_pid=$!
wait "$asker_pid"
