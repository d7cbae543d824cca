#!/usr/bin/env bash
# Figures for docs/BENCHMARKS.md: deliveries per second, IMAP mixes, and where the
# time goes. Everything runs on loopback of this one machine, load generator and
# all nodes included. usage: bench.sh [folder of mailbench]
set -euo pipefail
cd "$(dirname "$0")/.."
src=${1:-../shared/mailbench}
if [ ! -d "$src" ]; then
  echo "bench: no load generator at $src: nothing was measured"
  exit 0
fi
work=$(mktemp -d)
demo=
finish() { [ -z "$demo" ] || { kill -INT "$demo" 2>/dev/null || true; wait "$demo" || true; }; rm -rf "$work"; }
trap finish EXIT
(cd "$src" && go build -trimpath -o "$work/mailbench" .)
users=50 base=${BASE_PORT:-28000}

start() { # ack nodes
  rm -rf "$work/d"
  bin/mailnode demo --dir "$work/d" --nodes "$2" --replicas 1 --slots 12 --users $users --ack "$1" --base-port $base >"$work/demo.log" 2>&1 &
  demo=$!
  for _ in $(seq 120); do grep -q '^ready$' "$work/demo.log" && break; sleep 0.5; done
  pids=$(grep -o '"pid": *[0-9]*' "$work/d/demo.json" | grep -o '[0-9]*' | paste -sd,)
}
stop() { kill -INT $demo; wait $demo || true; demo=; }
to="-users u%d@example.test -nusers $users"

# How long each slot was without a master that takes changes: from the seal at the old one
# to "slot served" at the new one. All nodes have this machine's clock.
pauses() {
  cat "$work"/d/n*/log | grep -E 'msg="?(the slot is being handed over|slot served)' | sort | awk '
    { split(substr($1, 6), at, /[T:Z+]/); t = at[2]*3600 + at[3]*60 + at[4]
      match($0, /slot=s[0-9]+/); slot = substr($0, RSTART, RLENGTH) }
    /being handed over/ { begun[slot] = t; next }
    slot in begun { printf "%.3f\n", t - begun[slot]; delete begun[slot] }' | sort -n | awk '
    { t[NR] = $1 }
    END { if (NR) printf "hand-overs %d, without service: p50 %s s, p99 %s s, slowest %s s\n", NR, t[int((NR+1)*.5)], t[int(NR*.99)], t[NR] }'
}

echo "# $(date -u +%F), $(nproc) cores, $(go version | cut -d' ' -f3), $(bin/mailnode version | head -n1)"
for ack in replica local; do
  start $ack 3
  for c in 1 16 64; do
    n=$((c == 1 ? 1500 : 6000))
    echo "# deliver, ack=$ack, $c connections, $n messages"
    "$work/mailbench" deliver -lmtp 127.0.0.1:$((base + 2)) $to -n $n -c $c -pid "$pids" | grep -E '^ *(operation|message |messages/s|MB/s|server CPU|RESULT)' || true
    if [ "$ack $c" = "replica 16" ] && command -v curl >/dev/null; then
      "$work/mailbench" deliver -lmtp 127.0.0.1:$((base + 2)) $to -n 0 -duration 12s -c 16 >/dev/null &
      load=$!
      curl -s --unix-socket "$work/d/n1/admin.sock" -o "$work/cpu.pprof" 'http://x/debug/pprof/profile?seconds=8'
      wait $load || true
      echo "# CPU profile of n1, ack=replica, 16 connections:"
      go tool pprof -top -nodecount=14 bin/mailnode "$work/cpu.pprof" 2>/dev/null | sed -n '3,22p'
    fi
  done
  if [ $ack = replica ]; then
    for mix in reader sync flags; do
      "$work/mailbench" imap -imap 127.0.0.1:$((base + 1)) -tls -insecure $to -password pw -c 16 -duration 10s -mix $mix -pid "$pids"
    done
  fi
  stop
done
echo "# hand-over under load: 64 deliveries and 64 IMAP sessions at once, all masters of n1 off and home again, 25 times"
start replica 3
"$work/mailbench" deliver -lmtp 127.0.0.1:$((base + 2)) $to -n 0 -duration 120s -c 64 -record "$work/acked" >"$work/lmtp" &
lmtp=$!
"$work/mailbench" imap -imap 127.0.0.1:$((base + 1)) -tls -insecure $to -password pw -c 64 -duration 120s -mix flags >"$work/imap" &
imap=$!
moves=0
while [ $moves -lt 25 ] && kill -0 $lmtp 2>/dev/null; do
  for way in -a -m; do
    bin/mailnode --socket "$work/d/n2/admin.sock" fo $way n1 --yes >"$work/move" || { cat "$work/move"; exit 1; }
  done
  moves=$((moves + 1))
done
wait $lmtp || true
wait $imap || true
echo "# $moves rounds"
pauses
grep -E '^ *(operation|message |messages/s|RESULT)' "$work/lmtp" || true
grep -E '^ *(operation|store|fetch|RESULT)' "$work/imap" || true
"$work/mailbench" verify -imap 127.0.0.1:$base $to -password pw -record "$work/acked" | tail -n 4
stop
echo "# failover under load: kill -9, proposal, confirm, first delivery and login of every user"
go test -count=1 -timeout 200s -v -run 'TestSystem/LoadAndKill9' ./node/cli | grep -E 'proposal after|from confirm' || true
