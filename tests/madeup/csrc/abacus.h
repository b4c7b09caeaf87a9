// What the device and its collectives share: CPU tensors that use a device tensor's memory.

#pragma once

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

namespace abacus {

// Aliases made for one call. Tensors that share a storage share its alias, so kernels still see that they overlap.
class Aliases {
 public:
  Aliases();

  // The tensor itself if it is on the CPU.
  at::Tensor on_cpu(const at::Tensor& tensor);

  // Pass on to the device tensors what the call did to the shape or the storage of their aliases.
  void write_back();

  // A result as a tensor on `device`: the argument it is, a view of the argument it shares memory with, or a new one.
  at::Tensor on_device(const at::Tensor& result, c10::Device device);

 private:
  static c10::Storage storage_on_cpu(const c10::Storage& storage);

  std::vector<std::pair<c10::Storage, c10::Storage>> storages_;
  std::vector<std::pair<at::Tensor, at::Tensor>> tensors_;
};

}  // namespace abacus
