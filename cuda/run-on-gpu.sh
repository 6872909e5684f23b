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
# The seconds since the start, and what happened.
began=$(date +%s)
note() { echo "$(($(date +%s) - began)) s: $*" | tee -a "$out/summary.txt"; }
# Runs a command with a time limit; tells how it ended.
limited() {
  name=$1 seconds=$2 file=$3
  shift 3
  timeout -k 5 "$seconds" "$@" >"$file" 2>&1
  code=$?
  [ $code -eq 0 ] || status=1
  [ $code -eq 124 ] && echo "stopped after $seconds s" >>"$file"
  note "$name: exit $code, $(tail -n 1 "$file" | cut -c 1-200)"
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

wants tests && limited tests 45 "$out/tests.txt" "$build/latentwire-cuda-tests"
if wants bench; then
  # lines are JSON alone, also of a run that is stopped
  timeout -k 5 50 "$build/latentwire-cuda-bench" >"$out/bench.json" 2>>"$out/summary.txt" || status=1
  note "bench: $(wc -l <"$out/bench.json") lines"
fi

# Both sanitizers at once: they are bound by the processor.
sanitizer() {
  limited "$1" 60 "$out/$1.txt" env LATENTWIRE_TEST_ROUNDS=1 compute-sanitizer --tool "$1" --error-exitcode 9 "$build/latentwire-cuda-tests"
  [ "$status" -eq 0 ]
}
if command -v compute-sanitizer >/dev/null; then
  checks=
  for tool in memcheck racecheck; do
    if wants $tool; then
      sanitizer $tool &
      checks="$checks $!"
    fi
  done
  for check in $checks; do wait "$check" || status=1; done
fi

note "status $status"
grep -E "^not ok|passed, " "$out/tests.txt" 2>/dev/null
exit $status
