#!/bin/sh
# Builds, tests and measures the CUDA kernels on a machine with a GPU, CMake and nvcc, and compares with PyTorch where Python has it.
#
#   sh cuda/run-on-gpu.sh OUT [PART...]    parts: tests bench peers memcheck racecheck; all of them by default
#
# OUT gets tests.txt (the build, if it fails), bench.json, peers.json, memcheck.txt, racecheck.txt and summary.txt. Each part has its own time
# limit and leaves what it has; the exit status is 0 only if the build and all tests and checks were good. LATENT_CUDA_SASS names the
# processor to compile for, that of this machine's first GPU by default; LATENT_CUDA_PEER_SECONDS how long PyTorch may measure (85).
set -u
out=${1:?"the folder for the results"}
shift
parts=${*:-tests bench peers memcheck racecheck}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)
build=${LATENT_CUDA_BUILD:-$here/../build-cuda-gpu}
PATH=$PATH:/usr/local/cuda/bin
status=0

wants() {
  case " $parts " in *" $1 "*) return 0 ;; esac
  return 1
}
shards=$(($(nproc) / 2))
[ "$shards" -ge 1 ] || shards=1
began=$(date +%s)
# The seconds since the start, and what happened.
note() { echo "$(($(date +%s) - began)) s: $*" | tee -a "$out/summary.txt"; }
# Runs the tests in shards beside each other, which a processor each keeps busy, under a command: name, seconds, command...
sharded() {
  name=$1 seconds=$2
  shift 2
  pids=
  for shard in $(seq 0 $((shards - 1))); do
    timeout -k 5 "$seconds" "$@" "$build/latentwire-cuda-tests" "--shard=$shard/$shards" >"$build/$name.$shard" 2>&1 &
    pids="$pids $!"
  done
  bad=0
  for pid in $pids; do
    wait "$pid"
    code=$?
    [ $code -eq 0 ] || bad=$code
  done
  : >"$out/$name.txt"
  for shard in $(seq 0 $((shards - 1))); do
    cat "$build/$name.$shard" >>"$out/$name.txt"
    # a shard that was stopped has no last line
    grep -q "passed, " "$build/$name.$shard" || echo "shard $shard did not end" >>"$out/$name.txt"
  done
  awk '/ passed, / { passed += $1; failed += $3 } /did not end/ { cut++ }
    END { printf "%d passed, %d failed%s\n", passed, failed, cut ? ", " cut " shards stopped" : "" }' "$out/$name.txt" >"$build/$name.sum"
  cat "$build/$name.sum" >>"$out/$name.txt"
  note "$name: exit $bad, $(cat "$build/$name.sum")$(grep -h "ERROR SUMMARY: [1-9]\|RACECHECK SUMMARY: [1-9]" "$out/$name.txt" | tr -d =)"
  [ "$bad" -eq 0 ]
}

: >"$out/summary.txt"
if [ -z "${LATENT_CUDA_SASS:-}" ]; then
  LATENT_CUDA_SASS=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
  [ "$LATENT_CUDA_SASS" = 90 ] && LATENT_CUDA_SASS=90a
fi
note "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1), sm_$LATENT_CUDA_SASS, $(nproc) processors"

# PyTorch measures while nvcc compiles: one needs the GPU and the other does not.
peers=
if wants peers && python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  timeout -k 5 105 python3 "$here/bench/peers.py" "${LATENT_CUDA_PEER_SECONDS:-85}" >"$out/peers.json" 2>"$out/peers.err" &
  peers=$!
fi

generator=
command -v ninja >/dev/null && generator="-G Ninja"
# shellcheck disable=SC2086
if ! (export CUDACXX="${CUDACXX:-$(command -v nvcc)}"
  cmake -S "$here" -B "$build" $generator -DLATENT_CUDA_SASS="$LATENT_CUDA_SASS" -DLATENT_CUDA_PTX= -DLATENT_CUDA_LINEINFO=ON &&
  timeout -k 5 150 cmake --build "$build" -j "$(nproc)" --target latentwire-cuda-tests latentwire-cuda-bench) >"$build.log" 2>&1; then
  note "the build failed"
  tail -n 150 "$build.log" | tee "$out/tests.txt"
  [ -z "$peers" ] || wait "$peers"
  rm -f "$out/peers.err"
  exit 1
fi
note "built"

if [ -n "$peers" ]; then
  wait "$peers"
  code=$?
  note "peers: exit $code, $(wc -l <"$out/peers.json") lines"
  [ $code -eq 0 ] || tail -n 3 "$out/peers.err" | tee -a "$out/summary.txt"
fi
rm -f "$out/peers.err"
[ -s "$out/peers.json" ] && export LATENTWIRE_PEERS="$out/peers.json"

if wants tests; then sharded tests 45 || status=1; fi
if wants bench; then
  # lines are JSON alone, also of a run that is stopped
  timeout -k 5 50 "$build/latentwire-cuda-bench" >"$out/bench.json" 2>>"$out/summary.txt" || status=1
  note "bench: $(wc -l <"$out/bench.json") lines"
fi

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    if wants $tool; then
      sharded $tool 60 env LATENTWIRE_TEST_ROUNDS=1 compute-sanitizer --tool $tool --error-exitcode 9 || status=1
    fi
  done
fi

note "status $status"
grep "^not ok" "$out/tests.txt" 2>/dev/null
tail -n 1 "$out/tests.txt" 2>/dev/null
exit $status
