// The made-up accelerator's collectives: another backend, which moves host memory, given views of abacus tensors.
//
// Like a vendor's library it moves its own device's tensors only, and refuses those of the CPU.

#include "abacus.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>

namespace {

using c10d::Work;
using Tensors = std::vector<at::Tensor>;
using Lists = std::vector<Tensors>;
using WorkPtr = c10::intrusive_ptr<Work>;

at::Tensor host_view(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.is_privateuseone(), "beads moves abacus tensors, not one on ", tensor.device());
  TORCH_CHECK(tensor.is_contiguous(), "beads moves contiguous tensors only");
  return abacus::Aliases().on_cpu(tensor);
}

template <typename Item>  // a tensor, or a list of them
std::vector<Item> host_view(const std::vector<Item>& items) {
  std::vector<Item> views;
  for (const auto& item : items) {
    views.push_back(host_view(item));
  }
  return views;
}

class Beads final : public c10d::Backend {
 public:
  explicit Beads(c10::intrusive_ptr<c10d::Backend> host)
      : Backend(host->getRank(), host->getSize()), host_(std::move(host)) {}

  const std::string getBackendName() const override {
    return "beads";
  }
  void setTimeout(std::chrono::milliseconds timeout) override {
    host_->setTimeout(timeout);
  }
  void setSequenceNumberForGroup() override {
    host_->setSequenceNumberForGroup();
  }
  uint64_t getSequenceNumberForGroup() override {
    return host_->getSequenceNumberForGroup();
  }

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    auto on_host = host_view(tensors);
    return host_->broadcast(on_host, options);
  }
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    auto on_host = host_view(tensors);
    return host_->allreduce(on_host, options);
  }
  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override {
    auto on_host = host_view(tensors);
    return host_->allreduce_coalesced(on_host, options);
  }
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    auto on_host = host_view(tensors);
    return host_->reduce(on_host, options);
  }
  WorkPtr allgather(Lists& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    auto to = host_view(outputs);
    auto from = host_view(inputs);
    return host_->allgather(to, from, options);
  }
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override {
    auto to = host_view(output), from = host_view(input);
    return host_->_allgather_base(to, from, options);
  }
  WorkPtr allgather_into_tensor_coalesced(
      Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    auto to = host_view(outputs), from = host_view(inputs);
    return host_->allgather_into_tensor_coalesced(to, from, options);
  }
  WorkPtr gather(Lists& outputs, Tensors& inputs, const c10d::GatherOptions& options) override {
    auto to = host_view(outputs);
    auto from = host_view(inputs);
    return host_->gather(to, from, options);
  }
  WorkPtr scatter(Tensors& outputs, Lists& inputs, const c10d::ScatterOptions& options) override {
    auto to = host_view(outputs);
    auto from = host_view(inputs);
    return host_->scatter(to, from, options);
  }
  WorkPtr reduce_scatter(Tensors& outputs, Lists& inputs, const c10d::ReduceScatterOptions& options) override {
    auto to = host_view(outputs);
    auto from = host_view(inputs);
    return host_->reduce_scatter(to, from, options);
  }
  WorkPtr _reduce_scatter_base(
      at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& options) override {
    auto to = host_view(output), from = host_view(input);
    return host_->_reduce_scatter_base(to, from, options);
  }
  WorkPtr reduce_scatter_tensor_coalesced(
      Tensors& outputs, Tensors& inputs, const c10d::ReduceScatterOptions& options) override {
    auto to = host_view(outputs), from = host_view(inputs);
    return host_->reduce_scatter_tensor_coalesced(to, from, options);
  }
  WorkPtr alltoall_base(
      at::Tensor& output, at::Tensor& input, std::vector<int64_t>& receive, std::vector<int64_t>& send,
      const c10d::AllToAllOptions& options) override {
    auto to = host_view(output), from = host_view(input);
    return host_->alltoall_base(to, from, receive, send, options);
  }
  WorkPtr alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override {
    auto to = host_view(outputs), from = host_view(inputs);
    return host_->alltoall(to, from, options);
  }
  WorkPtr send(Tensors& tensors, int rank, int tag) override {
    auto on_host = host_view(tensors);
    return host_->send(on_host, rank, tag);
  }
  WorkPtr recv(Tensors& tensors, int rank, int tag) override {
    auto on_host = host_view(tensors);
    return host_->recv(on_host, rank, tag);
  }
  WorkPtr recvAnysource(Tensors& tensors, int tag) override {
    auto on_host = host_view(tensors);
    return host_->recvAnysource(on_host, tag);
  }
  WorkPtr barrier(const c10d::BarrierOptions& options) override {
    return host_->barrier(options);
  }

 private:
  c10::intrusive_ptr<c10d::Backend> host_;
};

}  // namespace

PYBIND11_MODULE(_abacus, m) {
  m.def("beads", [](c10::intrusive_ptr<c10d::Backend> host) -> c10::intrusive_ptr<c10d::Backend> {
    return c10::make_intrusive<Beads>(std::move(host));
  });
}
