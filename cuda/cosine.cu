// Relative representations: a product with the anchors whose epilogue makes similarities of the sums, behind it the selection of the most
// similar, before it a product with the whitening. What that whitens is rounded to the anchors' dtype, so where those are of 16 bits and
// the rows many, it is a product of bf16 parts, 16 bits of each number, that takes half of the time of an f32 one and less.
#include "plan.h"

namespace latentwire::cuda {
namespace {

constexpr int warps = 4;

// A warp keeps the best 32 of what it has seen of its row sorted across its lanes; most values lose to the last that counts. For more than
// 32 it goes over the row again, for those that come after the last it had.
__global__ void __launch_bounds__(warps * 32)
    select_best(const float* r, int64_t stride, int64_t n, int64_t count, int64_t k, bool smallest, int32_t* indices, float* values) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  if (row >= n) return;
  const float* of_row = r + row * stride;
  unsigned long long last = 0;
  for (int64_t done = 0; done < k; done += 32) {
    const int wanted = static_cast<int>(k - done < 32 ? k - done : 32);
    unsigned long long best = no_argmin;
    unsigned long long worst = no_argmin;
    for (int64_t j0 = 0; j0 < count; j0 += 32) {
      const int64_t j = j0 + lane;
      unsigned long long key = no_argmin;
      if (j < count) {
        const float v = of_row[j];
        key = argmin_key(smallest ? v : -v, j);
        if (done > 0 && key <= last) key = no_argmin;
      }
      uint32_t better = __ballot_sync(all_lanes, key < worst);
      while (better != 0) {
        const unsigned long long taken = __shfl_sync(all_lanes, key, __ffs(static_cast<int>(better)) - 1);
        const int at = __popc(__ballot_sync(all_lanes, best < taken));
        const unsigned long long above = __shfl_up_sync(all_lanes, best, 1);
        if (lane == at) best = taken;
        if (lane > at) best = above;
        worst = __shfl_sync(all_lanes, best, wanted - 1);
        if (key == taken) key = no_argmin;
        better = __ballot_sync(all_lanes, key < worst);
      }
    }
    last = worst;
    if (lane < wanted) {
      const float v = argmin_value(best);
      indices[row * k + done + lane] = static_cast<int32_t>(best & 0xFFFF'FFFFU);
      values[row * k + done + lane] = smallest ? v : -v;
    }
  }
}

bool is_euclidean(Similarity s) noexcept { return s == Similarity::euclidean || s == Similarity::squared_euclidean; }

struct Room {
  int64_t slab = 0;
  void* centred = nullptr;  // [slab, leading] f32, or [slab, 3 leading] bf16 parts: what is whitened
  void* parts = nullptr;    // [width, 3 leading] bf16: of the whitening
  void* white = nullptr;    // [slab, leading] f32, or in the anchors' dtype where nothing else changes it
  void* rows = nullptr;     // [slab, leading] as the anchors meet them
  float* r = nullptr;       // [slab, count], of which the best are selected
  void* product = nullptr;
  bool whitens = false;
  bool treats = false;
  bool splits = false;

  // The whitening as it is multiplied.
  PackedMatrix map(const PackedMatrix& given) const noexcept {
    if (!splits) return given;
    return {Dtype::bf16, parts, given.outputs, 3 * packed_leading(Dtype::bf16, given.depth)};
  }
};

bool splits_whitening(const CosineArgs& a) noexcept {
  constexpr int64_t least_rows = 65;  // fewer are bound by reading the whitening, which parts make larger
  int major = 0;
  return a.whitening.data != nullptr && a.whitening.depth > 0 && a.anchors.dtype != Dtype::f32 && a.x.count >= least_rows &&
         a.path != Path::few && a.path != Path::simple && device_attribute(cudaDevAttrComputeCapabilityMajor, &major) == cudaSuccess &&
         major >= 8;
}

Room room_for(const CosineArgs& a, Arena& arena) noexcept {
  Room room;
  const int64_t depth = a.anchors.depth;
  room.whitens = a.whitening.data != nullptr;
  const bool changes = a.centre != nullptr || a.scale != nullptr;
  room.treats = changes || (!room.whitens && !lies_well(a.x, depth, a.anchors.dtype));
  room.slab = room.whitens || room.treats || a.k > 0 ? std::min(a.x.count, slab_rows) : a.x.count;
  if (room.whitens) {
    room.splits = splits_whitening(a);
    const PackedMatrix map = room.map(a.whitening);
    room.centred = arena.take(packed_bytes(map.dtype, room.slab, map.depth));
    if (room.splits) room.parts = arena.take(packed_bytes(map.dtype, map.outputs, map.depth));
    room.white = arena.take(packed_bytes(room.treats ? Dtype::f32 : a.anchors.dtype, room.slab, depth));
  }
  if (room.treats) room.rows = arena.take(packed_bytes(a.anchors.dtype, room.slab, depth));
  if (a.k > 0) room.r = arena.take<float>(static_cast<size_t>(room.slab * a.anchors.outputs) * sizeof(float));
  const auto own = [&](const PackedMatrix& w) { return product_workspace(w.dtype, a.x.count, room.slab, w.outputs, w.depth, a.path); };
  size_t product_bytes = a.similarity == Similarity::l1 ? 0 : own(a.anchors);
  if (room.whitens) product_bytes = std::max(product_bytes, own(room.map(a.whitening)));
  room.product = arena.take(product_bytes);
  return room;
}

bool is_sound(const CosineArgs& a) noexcept {
  if (a.x.count < 0 || a.x.count > INT32_MAX || a.anchors.depth < 0 || a.anchors.outputs < 0 || a.anchors.outputs > INT32_MAX) return false;
  if (a.k < 0 || a.k > a.anchors.outputs) return false;
  if (a.k > 0 ? a.indices == nullptr || a.values == nullptr : a.x.count > 1 && a.stride < a.anchors.outputs) return false;
  if (is_euclidean(a.similarity) && a.anchors.squares == nullptr) return false;
  const bool whitens = a.whitening.data != nullptr;
  if (whitens && (a.whitening.dtype != Dtype::f32 || a.whitening.outputs != a.anchors.depth || a.mean == nullptr)) return false;
  if (a.similarity == Similarity::l1 && a.path != Path::automatic && a.path != Path::simple) return false;
  return a.x.count <= 1 || a.x.stride >= (whitens ? a.whitening.depth : a.anchors.depth);
}

// Rows [first, first + count).
cudaError_t compare_slab(const CosineArgs& a, const Room& room, int64_t first, int64_t count, cudaStream_t stream) noexcept {
  Rows x = part_of(a.x, first, count);
  const int64_t depth = a.anchors.depth;
  Treatment t;
  if (room.whitens) {
    const PackedMatrix map = room.map(a.whitening);
    if (room.splits) {
      LATENT_CUDA_TRY(split_rows(x, a.whitening.depth, a.mean, false, room.centred, stream));
    } else {
      t.x = x;
      t.depth = a.whitening.depth;
      t.shift = a.mean;
      t.out = room.centred;
      LATENT_CUDA_TRY(treat_rows(t, stream));
    }
    const Rows centred{map.dtype, room.centred, count, packed_leading(map.dtype, map.depth)};
    Product p = product_of(centred, map, nullptr);
    p.out = room.white;
    p.out_dtype = room.treats ? Dtype::f32 : a.anchors.dtype;
    p.out_stride = packed_leading(p.out_dtype, depth);
    p.bad_row = a.bad_row;
    p.first_row = static_cast<int32_t>(first);
    // an f32 matrix has no warpgroup products, whatever the anchors have
    LATENT_CUDA_TRY(product(p, a.path == Path::wgmma && !room.splits ? Path::mma : a.path, room.product, stream));
    x = {p.out_dtype, room.white, count, p.out_stride};
  }
  if (room.treats) {
    t = {};
    t.x = x;
    t.depth = depth;
    t.shift = a.centre;
    t.scale = a.scale;
    t.dtype = a.anchors.dtype;
    t.out = room.rows;
    LATENT_CUDA_TRY(treat_rows(t, stream));
    x = {a.anchors.dtype, room.rows, count, packed_leading(a.anchors.dtype, depth)};
  }

  Product p = product_of(x, a.anchors, is_euclidean(a.similarity) ? a.anchors.squares : nullptr);
  switch (a.similarity) {
    case Similarity::cosine:
    case Similarity::angular:
      p.scale = RowScale::l2;
      break;
    case Similarity::squared_euclidean:
    case Similarity::euclidean:
      p.scale = RowScale::euclidean;
      p.finish = a.similarity == Similarity::euclidean ? Finish::root : Finish::floor;
      break;
    case Similarity::inner:
    case Similarity::l1:
      break;
  }
  p.out = a.k > 0 ? room.r : a.r + first * a.stride;
  p.out_stride = a.k > 0 ? a.anchors.outputs : a.stride;
  p.bad_row = a.bad_row;
  p.first_row = static_cast<int32_t>(first);
  if (a.similarity == Similarity::l1) {
    LATENT_CUDA_TRY(product_simple(p, true, stream));
  } else {
    LATENT_CUDA_TRY(product(p, a.path, room.product, stream));
  }
  if (a.similarity == Similarity::angular) {
    Polish q;
    q.n = count;
    q.columns = p.outputs;
    q.in = q.out = p.out;
    q.in_stride = q.out_stride = p.out_stride;
    q.angle = true;
    LATENT_CUDA_TRY(polish_rows(q, stream));
  }
  if (a.k == 0) return cudaSuccess;
  select_best<<<static_cast<unsigned>(ceil_div<int64_t>(count, warps)), warps * 32, 0, stream>>>(
      room.r, p.outputs, count, p.outputs, a.k, is_distance(a.similarity), a.indices + first * a.k, a.values + first * a.k);
  return cudaGetLastError();
}

}  // namespace

size_t cosine_workspace(const CosineArgs& args) noexcept {
  Arena arena;
  room_for(args, arena);
  return arena.used();
}

cudaError_t cosine(const CosineArgs& args, cudaStream_t stream) noexcept {
  if (!is_sound(args)) return cudaErrorInvalidValue;
  Arena arena(args.workspace, args.workspace_bytes);
  const Room room = room_for(args, arena);
  if (!arena.complete() || !aligned(args.workspace, 16)) return cudaErrorInvalidValue;
  if (args.x.count == 0 || args.anchors.outputs == 0) return cudaSuccess;
  if (room.white != nullptr) {
    const Dtype dtype = room.treats ? Dtype::f32 : args.anchors.dtype;
    LATENT_CUDA_TRY(clear_padding(dtype, room.white, room.slab, args.anchors.depth, stream));
  }
  if (room.splits) {
    const PackedMatrix& map = args.whitening;
    const Rows outputs{map.dtype, map.data, map.outputs, packed_leading(map.dtype, map.depth)};
    LATENT_CUDA_TRY(split_rows(outputs, map.depth, nullptr, true, room.parts, stream));
  }
  for (int64_t first = 0; first < args.x.count; first += room.slab)
    LATENT_CUDA_TRY(compare_slab(args, room, first, std::min(room.slab, args.x.count - first), stream));
  return cudaSuccess;
}

}  // namespace latentwire::cuda
