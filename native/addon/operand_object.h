// What the classes of packed operands share: a handle that packing creates, the operand behind it, and its disposal.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "addon/addon.h"
#include "addon/env_jobs.h"
#include "addon/errors.h"
#include "addon/tagged_wrap.h"

namespace latentwire::addon {

// `Object` has, besides what TaggedWrap asks for, a static `constructor(env)`.
template <typename Object, typename Operand>
class OperandObject : public TaggedWrap<Object> {
 protected:
  using Shared = std::shared_ptr<const Operand>;

  // Only `wrap` makes one: it passes the operand as an External with a tag.
  explicit OperandObject(const Napi::CallbackInfo& info) : TaggedWrap<Object>(info) {
    if (info.Length() != 1 || !info[0].IsExternal() || !info[0].template As<Napi::External<Shared>>().CheckTypeTag(&external_tag))
      throw Napi::TypeError::New(info.Env(), std::string(Object::class_name) + " objects are made by packing");
    operand_ = *info[0].template As<Napi::External<Shared>>().Data();
    if (const int64_t bytes = own_bytes(); bytes > 0) Napi::MemoryManagement::AdjustExternalMemory(this->Env(), bytes);
  }

  static Job::ToValue wrap(Shared operand) {
    return [operand = std::move(operand)](napi_env env) -> napi_value {
      Shared given = operand;
      auto external = Napi::External<Shared>::New(env, &given);
      external.TypeTag(&external_tag);
      return Object::constructor(env).New({external});
    };
  }

  ~OperandObject() override { release(); }

  const Operand& operand(Napi::Env env) const { return *shared(env); }
  const Shared& shared(Napi::Env env) const {
    if (!operand_) throw_status(env, Status::fail(Code::disposed, std::string("the ") + Object::class_name + " is disposed"));
    return operand_;
  }

  bool is_disposed() const { return !operand_; }
  void release() {
    if (const int64_t bytes = own_bytes(); bytes > 0) Napi::MemoryManagement::AdjustExternalMemory(this->Env(), -bytes);
    operand_.reset();
  }

 private:
  // What the garbage collector should know of: operands that only share another object's memory have no `bytes`.
  int64_t own_bytes() const {
    if constexpr (requires(const Operand& one) { one.bytes(); })
      return operand_ ? static_cast<int64_t>(operand_->bytes()) : 0;
    else
      return 0;
  }
  static constexpr napi_type_tag external_tag = {Object::tag.lower, ~Object::tag.upper};
  Shared operand_;
};

}  // namespace latentwire::addon
