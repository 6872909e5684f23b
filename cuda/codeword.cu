// The nearest codeword: a product whose epilogue keeps the least |c|^2 / 2 - <x, c> of each row, across blocks by an atomic minimum over
// keys of value and index, which is the same whichever comes first. Blocks of few rows finish together and would queue for the same words:
// each leaves a key of its own, of which the second kernel takes the least.
#include "plan.h"

namespace latentwire::cuda {
namespace {

constexpr int warps = 4;

// By a kernel, because what follows can begin while one ends, and not while memory is set.
__global__ void __launch_bounds__(warps * 32) clear_keys(unsigned long long* best, int64_t n) {
  let_next_begin();
  wait_for_previous();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row < n) best[row] = no_argmin;
}

// A warp for each row: the index of the least of `tiles` keys [tiles, n], and |x|^2 where the distance is wanted.
template <class T>
__global__ void __launch_bounds__(warps * 32)
    tell_nearest(const T* x, int64_t stride, int64_t n, int64_t depth, const unsigned long long* best, int64_t tiles, int32_t* indices,
                 float* distances, int32_t* bad_row, int32_t first_row) {
  let_next_begin();
  wait_for_previous();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  if (row >= n) return;
  unsigned long long key = no_argmin;
  for (int64_t tile = lane; tile < tiles; tile += 32) key = min(key, best[tile * n + row]);
  key = warp_min(key);
  if (lane == 0) indices[row] = key == no_argmin ? 0 : static_cast<int32_t>(key & 0xFFFF'FFFFU);
  float sum = 0;
  for (int64_t k = lane; k < depth; k += 32) {
    const float v = to_float(x[row * stride + k]);
    sum = fmaf(v, v, sum);
  }
  sum = warp_sum(sum);
  if (lane != 0) return;
  const float distance = key == no_argmin ? INFINITY : sum + 2 * argmin_value(key);
  if (!isfinite(distance) && bad_row != nullptr) atomicMin(bad_row, first_row + static_cast<int32_t>(row));
  if (distances != nullptr) distances[row] = fmaxf(0.0F, distance);
}

struct Room {
  int64_t slab = 0;
  void* rows = nullptr;
  unsigned long long* best = nullptr;
  void* product = nullptr;
  bool treats = false;
};

// Tiles of so many rows, if few, each of which leaves its keys: `best` is [tiles, rows]. 0: there is one key a row.
int64_t tiles_of(const CodewordArgs& a, int64_t rows) noexcept {
  if (a.path != Path::automatic && a.path != Path::few) return 0;
  return few_tiles(a.codewords.dtype, rows, a.codewords.outputs, a.codewords.depth);
}

Room room_for(const CodewordArgs& a, Arena& arena) noexcept {
  Room room;
  const PackedMatrix& w = a.codewords;
  room.treats = !lies_well(a.x, w.depth, w.dtype);
  room.slab = room.treats ? std::min(a.x.count, slab_rows) : a.x.count;
  if (room.treats) room.rows = arena.take(packed_bytes(w.dtype, room.slab, w.depth));
  const auto keys = [&](int64_t rows) { return rows * std::max<int64_t>(tiles_of(a, rows), 1); };
  const int64_t last = room.slab > 0 ? a.x.count % room.slab : 0;
  room.best = arena.take<unsigned long long>(static_cast<size_t>(std::max(keys(room.slab), keys(last))) * sizeof(unsigned long long));
  room.product = arena.take(product_workspace(w.dtype, a.x.count, room.slab, w.outputs, w.depth, a.path));
  return room;
}

bool is_sound(const CodewordArgs& a) noexcept {
  const PackedMatrix& w = a.codewords;
  return a.x.count >= 0 && a.x.count <= INT32_MAX && w.outputs >= 1 && w.outputs <= INT32_MAX && w.depth >= 0 && w.squares != nullptr &&
         (a.x.count <= 1 || a.x.stride >= w.depth);
}

}  // namespace

size_t codeword_workspace(const CodewordArgs& args) noexcept {
  Arena arena;
  room_for(args, arena);
  return arena.used();
}

cudaError_t codeword(const CodewordArgs& args, cudaStream_t stream) noexcept {
  if (!is_sound(args)) return cudaErrorInvalidValue;
  Arena arena(args.workspace, args.workspace_bytes);
  const Room room = room_for(args, arena);
  if (!arena.complete() || !aligned(args.workspace, 16)) return cudaErrorInvalidValue;
  for (int64_t first = 0; first < args.x.count; first += room.slab) {
    const int64_t count = std::min(room.slab, args.x.count - first);
    const Rows given = part_of(args.x, first, count);
    Rows x = given;
    if (room.treats) {
      Treatment t;
      t.x = x;
      t.depth = args.codewords.depth;
      t.dtype = args.codewords.dtype;
      t.out = room.rows;
      LATENT_CUDA_TRY(treat_rows(t, stream));
      x = {t.dtype, room.rows, count, packed_leading(t.dtype, t.depth)};
    }
    Product p = product_of(x, args.codewords, args.codewords.squares);
    p.best = room.best;
    p.bad_row = args.bad_row;
    p.first_row = static_cast<int32_t>(first);
    const int64_t tiles = tiles_of(args, count);
    if (tiles > 0) {
      LATENT_CUDA_TRY(product_few(p, stream));
    } else {
      LATENT_CUDA_TRY(launch_early(clear_keys, dim3(static_cast<unsigned>(ceil_div<int64_t>(count, warps * 32))), warps * 32, 0, 1, stream,
                                   room.best, count));
      LATENT_CUDA_TRY(product(p, args.path, room.product, stream));
    }
    const cudaError_t error = for_dtype(given.dtype, [&](auto element) {
      using T = decltype(element);
      return launch_early(tell_nearest<T>, dim3(static_cast<unsigned>(ceil_div<int64_t>(count, warps))), warps * 32, 0, 1, stream,
                          static_cast<const T*>(given.data), given.stride, count, args.codewords.depth,
                          static_cast<const unsigned long long*>(room.best), std::max<int64_t>(tiles, 1), args.indices + first,
                          args.distances == nullptr ? nullptr : args.distances + first, args.bad_row, p.first_row);
    });
    LATENT_CUDA_TRY(error);
  }
  return cudaSuccess;
}

}  // namespace latentwire::cuda
