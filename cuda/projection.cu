// The fused projection: products that take norm, bias, GELU and residual on the way, and a pass behind them for what is left.
#include "plan.h"

namespace latentwire::cuda {
namespace {

// LayerNorm of f32 goes before the product: taken off the sums, a mean far from zero would cost them digits.
bool normalises_first(const ProjectionArgs& a) noexcept { return a.norm == Norm::layer && a.first.dtype == Dtype::f32; }

bool is_late(Activation activation) noexcept { return activation == Activation::silu || activation == Activation::tanh; }

struct Room {
  int64_t slab = 0;
  void* rows = nullptr;    // [slab, leading] as the first product takes them
  void* hidden = nullptr;  // [slab, leading] between the layers
  float* wide = nullptr;   // [slab, outputs] before the rescale, where y itself could not hold it
  void* product = nullptr;
  bool treats = false;
  bool widens = false;
};

Room room_for(const ProjectionArgs& a, Arena& arena) noexcept {
  Room room;
  const bool two = a.second.data != nullptr;
  const int64_t outputs = two ? a.second.outputs : a.first.outputs;
  room.treats = normalises_first(a) || !lies_well(a.x, a.first.depth, a.first.dtype);
  room.widens = a.rescale == Rescale::to_norm && a.y_dtype != Dtype::f32;
  room.slab = room.treats || two || room.widens ? std::min(a.x.count, slab_rows) : a.x.count;
  if (room.treats) room.rows = arena.take(packed_bytes(a.first.dtype, room.slab, a.first.depth));
  if (two) room.hidden = arena.take(packed_bytes(a.second.dtype, room.slab, a.second.depth));
  if (room.widens) room.wide = arena.take<float>(static_cast<size_t>(room.slab * outputs) * sizeof(float));
  size_t own = product_workspace(a.first.dtype, a.x.count, room.slab, a.first.outputs, a.first.depth, a.path);
  if (two) own = std::max(own, product_workspace(a.second.dtype, a.x.count, room.slab, a.second.outputs, a.second.depth, a.path));
  room.product = arena.take(own);
  return room;
}

bool is_sound(const ProjectionArgs& a) noexcept {
  const bool two = a.second.data != nullptr;
  const int64_t outputs = two ? a.second.outputs : a.first.outputs;
  if (a.x.count < 0 || a.x.count > INT32_MAX || a.first.depth < 0 || a.first.outputs < 0) return false;
  if (a.norm == Norm::layer && a.first.dtype != Dtype::f32 && a.first.sums == nullptr) return false;
  if (two && a.second.depth != a.first.outputs) return false;
  if (a.first.outputs > INT32_MAX || outputs > INT32_MAX) return false;
  if (a.rescale == Rescale::residual && outputs != a.first.depth) return false;
  return a.x.count <= 1 || (a.x.stride >= a.first.depth && a.stride >= outputs);
}

RowScale scale_of(Norm norm) noexcept {
  switch (norm) {
    case Norm::l2:
      return RowScale::l2;
    case Norm::rms:
      return RowScale::rms;
    case Norm::layer:
      return RowScale::layer;
    case Norm::none:
      break;
  }
  return RowScale::none;
}

// Rows [first, first + count).
cudaError_t project_slab(const ProjectionArgs& a, const Room& room, int64_t first, int64_t count, cudaStream_t stream) noexcept {
  const Rows given = part_of(a.x, first, count);
  Rows x = given;
  if (room.treats) {
    Treatment t;
    t.x = given;
    t.depth = a.first.depth;
    t.layer = normalises_first(a);
    t.epsilon = a.epsilon;
    t.dtype = a.first.dtype;
    t.out = room.rows;
    LATENT_CUDA_TRY(treat_rows(t, stream));
    x = {a.first.dtype, room.rows, count, packed_leading(a.first.dtype, a.first.depth)};
  }
  char* y = static_cast<char*>(a.y) + static_cast<size_t>(first * a.stride) * dtype_size(a.y_dtype);
  const bool two = a.second.data != nullptr;
  const bool late = is_late(a.activation);

  // where the last product leaves its sums
  const auto finish = [&](Product* p) {
    p->out = room.widens ? static_cast<void*>(room.wide) : y;
    p->out_dtype = room.widens ? Dtype::f32 : a.y_dtype;
    p->out_stride = room.widens ? p->outputs : a.stride;
    if (a.rescale != Rescale::residual || (late && !two) || given.dtype != p->dtype) return;
    p->residual = given.data;
    p->residual_stride = given.stride;
  };
  const auto polish = [&](void* values, Dtype dtype, int64_t columns, int64_t stride) {
    Polish q;
    q.n = count;
    q.columns = columns;
    q.in = q.out = values;
    q.in_dtype = q.out_dtype = dtype;
    q.in_stride = q.out_stride = stride;
    return q;
  };

  Product p = product_of(x, a.first, a.first_bias);
  p.scale = normalises_first(a) ? RowScale::none : scale_of(a.norm);
  p.epsilon = a.epsilon;
  p.sums = a.first.sums;
  p.finish = a.activation == Activation::gelu ? Finish::gelu : Finish::identity;
  p.bad_row = a.bad_row;
  p.first_row = static_cast<int32_t>(first);
  if (two) {
    p.out = room.hidden;
    p.out_dtype = a.second.dtype;
    p.out_stride = packed_leading(a.second.dtype, a.second.depth);
  } else {
    finish(&p);
  }
  LATENT_CUDA_TRY(product(p, a.path, room.product, stream));

  if (two) {
    if (late) {
      Polish q = polish(room.hidden, a.second.dtype, a.first.outputs, p.out_stride);
      q.activation = a.activation;
      LATENT_CUDA_TRY(polish_rows(q, stream));
    }
    const Rows hidden{a.second.dtype, room.hidden, count, p.out_stride};
    p = product_of(hidden, a.second, a.second_bias);
    p.bad_row = a.bad_row;
    p.first_row = static_cast<int32_t>(first);
    finish(&p);
    LATENT_CUDA_TRY(product(p, a.path, room.product, stream));
  }
  const bool late_now = late && !two;
  const bool adds_now = a.rescale == Rescale::residual && p.residual == nullptr;
  if (!late_now && !adds_now && a.rescale != Rescale::to_norm) return cudaSuccess;
  Polish q = polish(p.out, p.out_dtype, p.outputs, p.out_stride);
  q.out = y;
  q.out_dtype = a.y_dtype;
  q.out_stride = a.stride;
  if (late_now) q.activation = a.activation;
  q.to_norm = a.rescale == Rescale::to_norm;
  q.target_norm = a.target_norm;
  if (adds_now) q.residual = given;
  return polish_rows(q, stream);
}

}  // namespace

size_t projection_workspace(const ProjectionArgs& args) noexcept {
  Arena arena;
  room_for(args, arena);
  return arena.used();
}

cudaError_t projection(const ProjectionArgs& args, cudaStream_t stream) noexcept {
  if (!is_sound(args)) return cudaErrorInvalidValue;
  Arena arena(args.workspace, args.workspace_bytes);
  const Room room = room_for(args, arena);
  if (!arena.complete() || !aligned(args.workspace, 16)) return cudaErrorInvalidValue;
  const int64_t outputs = args.second.data != nullptr ? args.second.outputs : args.first.outputs;
  if (args.x.count == 0 || outputs == 0) return cudaSuccess;
  if (room.hidden != nullptr) LATENT_CUDA_TRY(clear_padding(args.second.dtype, room.hidden, room.slab, args.second.depth, stream));
  for (int64_t first = 0; first < args.x.count; first += room.slab)
    LATENT_CUDA_TRY(project_slab(args, room, first, std::min(room.slab, args.x.count - first), stream));
  return cudaSuccess;
}

}  // namespace latentwire::cuda
