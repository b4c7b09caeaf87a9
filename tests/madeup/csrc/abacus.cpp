// A made-up accelerator: eight devices named "abacus" whose memory is the host's and whose kernels are the CPU's.
//
// PyTorch sees a device type of its own (PrivateUse1) with allocator, guard, streams, events and hooks. Two things are
// written by hand, memory and views; every other operation runs the CPU kernel on aliases of the same memory, so that
// results have the CPU's bits. As on a real accelerator, operands that lie elsewhere are refused, an index that does not
// exist is refused, and memory runs out.

#include "abacus.h"

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>

namespace abacus {

// Devices

constexpr c10::DeviceIndex kCount = 8;
constexpr size_t kMemory = size_t{1} << 30;  // bytes a device has

thread_local c10::DeviceIndex current_device = 0;
thread_local std::array<c10::StreamId, kCount> current_stream{};

void check_index(c10::DeviceIndex index) {
  TORCH_CHECK(index >= 0 && index < kCount, "abacus has devices 0 to ", kCount - 1, ", not ", int(index));
}

c10::DeviceIndex exchange_device(c10::DeviceIndex index) {
  check_index(index);
  return std::exchange(current_device, index);
}

// Memory: counted as a caching allocator would count it, so that peaks and limits can be seen.

class Memory final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    const auto index = current_device;
    count(index, int64_t(size));
    void* data = size ? c10::alloc_cpu(size) : nullptr;
    return {data, new Block{data, size, index}, &free_block, c10::Device(c10::kPrivateUse1, index)};
  }

  // A CPU kernel's result becomes device memory as it is.
  c10::DataPtr adopt(c10::Storage storage, c10::DeviceIndex index) {
    const auto size = storage.nbytes();
    count(index, int64_t(size));
    void* data = storage.mutable_data();
    return {
        data, new Block{nullptr, size, index, std::move(storage)}, &free_block, c10::Device(c10::kPrivateUse1, index)};
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr;  // blocks carry more than their address
  }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
  bool initialized() override {
    return true;
  }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    check_index(index);
    const std::lock_guard lock(mutex_);
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0] = stats.reserved_bytes[0] = stats.active_bytes[0] = used_[index];
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex index) override {
    const std::lock_guard lock(mutex_);
    used_[index].reset_accumulated();
  }
  void resetPeakStats(c10::DeviceIndex index) override {
    const std::lock_guard lock(mutex_);
    used_[index].reset_peak();
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex index) override {
    check_index(index);
    const std::lock_guard lock(mutex_);
    return {kMemory - size_t(used_[index].current), kMemory};
  }

 private:
  struct Block {
    void* data;
    size_t size;
    c10::DeviceIndex index;
    c10::Storage storage{};
  };

  static void free_block(void* context);

  void count(c10::DeviceIndex index, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    auto& used = used_[index];
    if (bytes < 0) {
      used.decrease(size_t(-bytes));
      return;
    }
    TORCH_CHECK_WITH(
        OutOfMemoryError, used.current + bytes <= int64_t(kMemory), "abacus:", int(index), " is out of memory: ",
        used.current, " of ", kMemory, " bytes are in use, ", bytes, " more are wanted");
    used.increase(size_t(bytes));
  }

  std::mutex mutex_;
  std::array<c10::CachingAllocator::Stat, kCount> used_{};
};

Memory& memory() {
  static auto* instance = new Memory;  // outlives every tensor
  return *instance;
}

void Memory::free_block(void* context) {
  const std::unique_ptr<Block> block(static_cast<Block*>(context));
  memory().count(block->index, -int64_t(block->size));
  c10::free_cpu(block->data);
}

REGISTER_ALLOCATOR(c10::kPrivateUse1, &memory())

// Guard, streams and events. Work is done when the call returns, so there is never anything to wait for.

struct Event {
  std::chrono::steady_clock::time_point recorded;
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return c10::kPrivateUse1;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    return {c10::kPrivateUse1, exchange_device(device.index())};
  }
  c10::Device getDevice() const override {
    return {c10::kPrivateUse1, current_device};
  }
  void setDevice(c10::Device device) const override {
    exchange_device(device.index());
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current_device = device.index();
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return kCount;
  }
  c10::Stream getStream(c10::Device device) const override {
    return stream(current_stream[resolve(device)], device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return stream(0, device);
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    static std::atomic<c10::StreamId> next{1};
    return stream(next++, device);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getNewStream(device, 0);
  }
  c10::Stream exchangeStream(c10::Stream wanted) const override {
    const auto before = std::exchange(current_stream[resolve(wanted.device())], wanted.id());
    return stream(before, wanted.device());
  }
  bool queryStream(const c10::Stream&) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(c10::DeviceIndex index) const override {
    check_index(index);
  }
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    if (*event == nullptr) {
      *event = new Event;
    }
    static_cast<Event*>(*event)->recorded = std::chrono::steady_clock::now();
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override {
    return true;
  }
  void synchronizeEvent(void*) const override {}
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<Event*>(event);
  }
  double elapsedTime(void* from, void* to, c10::DeviceIndex) const override {
    const auto taken = static_cast<Event*>(to)->recorded - static_cast<Event*>(from)->recorded;
    return std::chrono::duration<double, std::milli>(taken).count();
  }

 private:
  static c10::DeviceIndex resolve(c10::Device device) {
    const auto index = device.has_index() ? device.index() : current_device;
    check_index(index);
    return index;
  }
  static c10::Stream stream(c10::StreamId id, c10::Device device) {
    return c10::Stream(c10::Stream::UNSAFE, c10::Device(c10::kPrivateUse1, resolve(device)), id);
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return kCount;
  }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    exchange_device(index);
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return current_device;
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return exchange_device(index);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return index < 0 ? current_device : exchange_device(index);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return c10::GetCPUAllocator();
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    const c10::DeviceGuard guard(storage.device());
    auto data = memory().allocate(size);
    if (const auto kept = std::min(size, storage.nbytes())) {
      std::memcpy(data.get(), storage.data(), kept);
    }
    storage.set_data_ptr_noswap(std::move(data));
    storage.set_nbytes(size);
  }
};

const bool hooked = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

// Aliases

Aliases::Aliases() = default;

at::Tensor Aliases::on_cpu(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_privateuseone()) {
    return tensor;
  }
  auto* const key = tensor.storage().unsafeGetStorageImpl();
  auto found = std::find_if(storages_.begin(), storages_.end(), [&](auto& pair) {
    return pair.first.unsafeGetStorageImpl() == key;
  });
  if (found == storages_.end()) {
    storages_.emplace_back(tensor.storage(), storage_on_cpu(tensor.storage()));
    found = std::prev(storages_.end());
  }
  auto alias = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(found->second), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  auto* const impl = alias.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
    impl->set_wrapped_number(true);
  }
  tensors_.emplace_back(tensor, alias);
  return alias;
}

c10::Storage Aliases::storage_on_cpu(const c10::Storage& storage) {
  auto held = std::make_unique<c10::Storage>(storage);
  void* const data = held->mutable_data();
  const auto release = [](void* context) { delete static_cast<c10::Storage*>(context); };
  return {
      c10::Storage::use_byte_size_t(), storage.nbytes(), c10::DataPtr(data, held.release(), release, c10::kCPU),
      c10::GetCPUAllocator(), /*resizable=*/true};
}

void Aliases::write_back() {
  for (const auto& [device, cpu] : storages_) {
    if (cpu.data() != device.data()) {  // the kernel resized it
      device.set_data_ptr_noswap(memory().adopt(cpu, device.device().index()));
      device.set_nbytes(cpu.nbytes());
    }
  }
  for (const auto& [device, cpu] : tensors_) {
    const bool same = device.sizes() == cpu.sizes() && device.strides() == cpu.strides();
    if (!same || device.storage_offset() != cpu.storage_offset()) {
      device.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
    }
  }
}

at::Tensor Aliases::on_device(const at::Tensor& result, c10::Device device) {
  if (!result.defined() || !result.is_cpu()) {
    return result;
  }
  for (const auto& [original, cpu] : tensors_) {
    if (cpu.is_same(result)) {
      return original;  // in place, or an `out` argument
    }
  }
  c10::Storage storage;
  for (const auto& [original, cpu] : storages_) {
    if (cpu.unsafeGetStorageImpl() == result.storage().unsafeGetStorageImpl()) {
      storage = original;  // a view
    }
  }
  if (!storage) {
    const auto size = result.storage().nbytes();
    storage = c10::Storage(
        c10::Storage::use_byte_size_t(), size, memory().adopt(result.storage(), device.index()), &memory(), true);
  }
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), result.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(result.sizes(), result.strides(), result.storage_offset());
  return tensor;
}

// Operations

namespace {

at::Tensor empty(
    c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device> device, std::optional<bool> pinned, std::optional<c10::MemoryFormat> format) {
  TORCH_CHECK(!pinned.value_or(false), "abacus memory cannot be pinned");
  const c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_generic(
      size, &memory(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device> device, std::optional<bool> pinned) {
  TORCH_CHECK(!pinned.value_or(false), "abacus memory cannot be pinned");
  const c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_strided_generic(
      size, stride, &memory(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool) {
  Aliases aliases;
  const at::AutoDispatchBelowADInplaceOrView below;
  aliases.on_cpu(self).copy_(aliases.on_cpu(source));
  return self;
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool non_blocking) {
  auto to = target;
  return copy_(to, source, non_blocking);
}

at::Tensor copy_from_and_resize(const at::Tensor& source, const at::Tensor& target) {
  target.resize_(source.sizes());
  return copy_from(source, target, false);
}

at::Tensor as_strided(
    const at::Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

const at::Tensor& resize_(
    const at::Tensor& self, c10::IntArrayRef size, std::optional<c10::MemoryFormat> format) {
  auto* const impl = self.unsafeGetTensorImpl();
  const auto before = size_t(impl->storage().nbytes());
  impl->set_sizes_contiguous(size);
  if (format.has_value()) {
    impl->empty_tensor_restride(*format);
  }
  const auto needed =
      at::detail::computeStorageNbytes(impl->sizes(), impl->strides(), self.itemsize(), impl->storage_offset());
  if (needed > before) {
    at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(self.storage(), needed);
  }
  return self;
}

at::Tensor& set_storage(
    at::Tensor& self, at::Storage storage, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::native::set_storage_cpu_(self, std::move(storage), offset, size, stride);
}

bool moves_devices(const c10::OperatorHandle& op) {
  // An index may lie on the host, as everywhere in PyTorch.
  const auto& name = op.schema().name();
  return name == "aten::index" || name == "aten::_index_put_impl_" || name == "aten::index_put_";
}

// The CPU kernel, whatever it is, on aliases.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Aliases aliases;
  std::optional<c10::Device> device;
  const bool strict = !moves_devices(op);
  const auto convert = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) {
      return tensor;
    }
    const bool on_host = tensor.is_cpu();
    TORCH_CHECK(
        !on_host || tensor.dim() == 0 || !strict, op.schema().name(), ": one tensor of shape ", tensor.sizes(),
        " is on the CPU and others on an abacus; all must be on one device");
    if (!on_host) {
      TORCH_CHECK(
          !device.has_value() || tensor.dim() == 0 || *device == tensor.device(), op.schema().name(),
          ": tensors are on ", *device, " and on ", tensor.device(), "; all must be on one device");
      device = tensor.device();
    }
    return aliases.on_cpu(tensor);
  };
  for (auto value = stack->end() - ptrdiff_t(op.schema().arguments().size()); value != stack->end(); ++value) {
    if (value->isTensor()) {
      *value = convert(value->toTensor());
    } else if (value->isTensorList()) {
      auto tensors = value->toTensorVector();
      std::transform(tensors.begin(), tensors.end(), tensors.begin(), convert);
      *value = tensors;
    } else if (value->isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> converted;
      for (const std::optional<at::Tensor> tensor : value->toOptionalTensorList()) {
        converted.push_back(tensor.has_value() ? std::optional(convert(*tensor)) : std::nullopt);
      }
      *value = converted;
    } else if (value->isDevice()) {
      device = value->toDevice();
      *value = c10::Device(c10::kCPU);
    }
  }
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    op.callBoxed(stack);
  }
  aliases.write_back();
  const auto target = device.value_or(c10::Device(c10::kPrivateUse1, current_device));
  for (auto value = stack->end() - ptrdiff_t(op.schema().returns().size()); value != stack->end(); ++value) {
    if (value->isTensor()) {
      *value = aliases.on_device(value->toTensor(), target);
    } else if (value->isTensorList()) {
      auto tensors = value->toTensorVector();
      for (auto& tensor : tensors) {
        tensor = aliases.on_device(tensor, target);
      }
      *value = tensors;
    }
  }
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy_);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("as_strided", &as_strided);
  m.impl("view", static_cast<at::Tensor (*)(const at::Tensor&, c10::IntArrayRef)>(&at::native::view));
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("resize_", &resize_);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  m.impl("set_.source_Storage", static_cast<at::Tensor& (*)(at::Tensor&, at::Storage)>(&at::native::set_));
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  // Without a kernel of its own PyTorch composes it of others, to other bits.
  m.impl("silu_backward", torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

}  // namespace

}  // namespace abacus
