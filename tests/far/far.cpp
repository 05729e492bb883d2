// A device "far" that lives in the host's memory, for tests where there is no GPU: whatever a GPU
// refuses it refuses (tensors of two devices in one operation, a generator of another device), and
// it notes where a GPU would have to wait for the host or the host for it.
//
// Operations run as the CPU's on views of the same memory.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <mutex>
#include <set>

namespace {

using at::Tensor;
const auto kFar = c10::DeviceType::PrivateUse1;
const c10::Device kDevice(kFar, 0);

// ------------------------------------------------------------------ what waited

std::mutex waits_mutex;
std::vector<std::string> waits;

void note_wait(const std::string& name) {
  std::lock_guard<std::mutex> lock(waits_mutex);
  waits.push_back(name);
}

// Their output's size is known once they have run.
const std::set<std::string> kSizedByData = {
    "aten::nonzero", "aten::masked_select", "aten::_unique", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::bincount", "aten::repeat_interleave"};

// ------------------------------------------------------------------ memory

struct Allocator final : c10::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    void* data = c10::alloc_cpu(bytes);
    return {data, data, &c10::free_cpu, kDevice};
  }
  at::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};
Allocator allocator;
REGISTER_ALLOCATOR(kFar, &allocator);

Tensor far_empty(
    c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &allocator, keys, c10::dtype_or_default(dtype), format);
}

Tensor far_empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(
      size, stride, &allocator, keys, c10::dtype_or_default(dtype));
}

bool is_far(const Tensor& t) { return t.defined() && t.device().type() == kFar; }

// The same memory as a tensor of the CPU.
Tensor on_host(const Tensor& t) {
  if (!is_far(t)) return t;
  const auto& theirs = t.storage();
  at::DataPtr data(theirs.mutable_data(), c10::Device(c10::kCPU));
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), theirs.nbytes(), std::move(data), c10::GetCPUAllocator(),
      /*resizable=*/true);
  auto view = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), t.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  return view;
}

// A new tensor of the device with what one of the CPU holds.
Tensor to_far(const Tensor& t) {
  if (!t.defined() || is_far(t)) return t;
  auto out = far_empty_strided(t.sizes(), t.strides(), t.scalar_type(), {}, {}, {});
  on_host(out).copy_(t);
  return out;
}

// Give a tensor of the device the size and the values of what was its view on the host.
void take_size(const Tensor& t, const Tensor& view) {
  auto grown = to_far(view);
  auto* impl = t.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(grown.storage());
  impl->set_sizes_and_strides(grown.sizes(), grown.strides(), 0);
}

// ------------------------------------------------------------------ random numbers

struct FarGenerator final : at::CPUGeneratorImpl {
  explicit FarGenerator(uint64_t seed = c10::default_rng_seed_val) : CPUGeneratorImpl(seed) {
    device_ = kDevice;
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }
};

const at::Generator& default_generator() {
  static at::Generator generator = at::make_generator<FarGenerator>();
  return generator;
}

// Within, what takes no generator draws from the device's.
struct OwnNumbers {
  at::Generator host = at::detail::getDefaultCPUGenerator();
  Tensor before = host.get_state();
  OwnNumbers() { host.set_state(default_generator().get_state()); }
  ~OwnNumbers() {
    auto own = default_generator();
    own.set_state(host.get_state());
    host.set_state(before);
  }
};

// ------------------------------------------------------------------ operations

struct OnHost {
  std::vector<std::pair<Tensor, Tensor>> views;  // of the device, on the host
  std::vector<std::pair<at::Generator, at::Generator>> generators;

  Tensor view(const Tensor& t, const std::string& name) {
    if (!t.defined()) return t;
    TORCH_CHECK(
        is_far(t) || t.dim() == 0, "Expected all tensors to be on the same device, but ", name,
        " got one of ", t.device(), " among those of far:0");
    if (!is_far(t)) return t;
    views.emplace_back(t, on_host(t));
    return views.back().second;
  }

  at::Generator generator(const at::Generator& g) {
    TORCH_CHECK(
        g.device().type() == kFar, "Expected a 'far' device type for generator but found ",
        g.device());
    auto host = at::detail::createCPUGenerator();
    host.set_state(g.get_state());
    generators.emplace_back(g, host);
    return host;
  }

  c10::IValue argument(const c10::IValue& value, const c10::Argument& of, const std::string& name) {
    if (value.isTensor()) return view(value.toTensor(), name);
    if (value.isTensorList()) {
      std::vector<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(view(t, name));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const auto& t : value.toOptionalTensorVector())
        list.push_back(t.has_value() ? std::optional<Tensor>(view(*t, name)) : t);
      return list;
    }
    if (value.isGenerator()) return generator(value.toGenerator());
    if (value.isNone() && of.name() == "generator") return generator(default_generator());
    if (value.isDevice()) return c10::Device(c10::kCPU);
    return value;
  }

  Tensor back(const Tensor& t) {
    for (auto& [theirs, host] : views)
      if (host.unsafeGetTensorImpl() == t.unsafeGetTensorImpl()) return theirs;
    return to_far(t);
  }

  c10::IValue result(const c10::IValue& value) {
    if (value.isTensor()) return back(value.toTensor());
    if (value.isTensorList()) {
      std::vector<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(back(t));
      return list;
    }
    return value;
  }

  void write_back() {
    for (auto& [theirs, host] : views)
      if (host.sizes() != theirs.sizes() || host.storage().data() != theirs.storage().data())
        take_size(theirs, host);
    for (auto& [theirs, host] : generators) theirs.set_state(host.get_state());
  }
};

bool chooses_by_mask(const std::vector<c10::IValue>& arguments) {
  for (const auto& value : arguments)
    if (value.isOptionalTensorList())
      for (const auto& index : value.toOptionalTensorVector())
        if (index.has_value() && index->defined() && index->scalar_type() == at::kBool) return true;
  return false;
}

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& name = schema.name();
  const auto begin = stack->size() - schema.arguments().size();
  std::vector<c10::IValue> arguments(stack->begin() + begin, stack->end());
  const bool fills = name == "aten::_index_put_impl_" && arguments[2].toTensor().numel() == 1;
  if (kSizedByData.count(name) || (chooses_by_mask(arguments) && !fills)) note_wait(name);
  OnHost host;
  for (size_t i = 0; i < arguments.size(); ++i)
    (*stack)[begin + i] = host.argument(arguments[i], schema.arguments()[i], name);
  {
    std::optional<OwnNumbers> numbers;
    if (name == "aten::native_dropout") numbers.emplace();
    op.callBoxed(stack);
  }
  const auto first = stack->size() - schema.returns().size();
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    const auto& of = schema.returns()[i];
    TORCH_CHECK(
        !of.alias_info() || of.alias_info()->isWrite(), "far has no kernel for the view ", name);
    auto& value = (*stack)[first + i];
    if (!value.isTensor() && !value.isTensorList()) note_wait(name);
    value = host.result(value);
  }
  host.write_back();
}

Tensor copy_from(const Tensor& self, const Tensor& to, bool) {
  if (is_far(self) != is_far(to)) note_wait(is_far(self) ? "copy to the host" : "copy to the GPU");
  on_host(to).copy_(on_host(self));
  return to;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& to) {
  to.resize_(self.sizes());
  return copy_from(self, to, false);
}

const Tensor& resize(
    const Tensor& self, c10::IntArrayRef size, std::optional<c10::MemoryFormat> format) {
  auto view = on_host(self);
  view.resize_(size, format);
  if (view.storage().data() != self.storage().data()) {
    take_size(self, view);
  } else {
    self.unsafeGetTensorImpl()->set_sizes_and_strides(view.sizes(), view.strides());
  }
  return self;
}

Tensor& set(
    Tensor& t, c10::Storage from, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  t.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(from));
  t.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return t;
}

at::Scalar item(const Tensor& self) {
  note_wait("aten::item");
  return at::_local_scalar_dense(on_host(self));
}

Tensor convolution(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
    c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
    c10::IntArrayRef output_padding, int64_t groups) {
  OnHost host;
  const std::string name = "aten::convolution";
  std::optional<Tensor> b = bias.has_value() ? std::optional<Tensor>(host.view(*bias, name)) : bias;
  return to_far(at::convolution(
      host.view(x, name), host.view(weight, name), b, stride, padding, dilation, transposed,
      output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, c10::IntArrayRef stride,
    c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
    c10::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> mask) {
  const auto channels = weight.size(transposed ? 1 : 0) * (transposed ? groups : 1);
  auto [dx, dw, db] = at::convolution_backward(
      on_host(grad), on_host(x), on_host(weight), c10::IntArrayRef(channels), stride, padding,
      dilation, transposed, output_padding, groups, mask);
  return {to_far(dx), to_far(dw), to_far(db)};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &far_empty);
  m.impl("empty_strided", &far_empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("resize_", &resize);
  m.impl("_local_scalar_dense", &item);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("_reshape_alias", [](const Tensor& t, c10::IntArrayRef size, c10::IntArrayRef stride) {
    return at::native::as_strided_tensorimpl(t, size, stride, {});
  });
  m.impl("set_.source_Tensor", [](Tensor& t, const Tensor& from) -> Tensor& {
    return set(t, from.storage(), from.storage_offset(), from.sizes(), from.strides());
  });
  m.impl("set_.source_Storage", [](Tensor& t, c10::Storage from) -> Tensor& {
    const auto size = static_cast<int64_t>(from.nbytes() / t.dtype().itemsize());
    return set(t, from, 0, {size}, {1});
  });
  m.impl("set_.source_Storage_storage_offset", &set);
}

// ------------------------------------------------------------------ the device

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kFar; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  c10::Stream getDefaultStream(c10::Device d) const override { return getStream(d); }
  c10::Stream exchangeStream(c10::Stream) const override { return getStream(kDevice); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<FarGenerator>();
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto data = allocator.allocate(bytes);
    allocator.copy_data(
        data.get(), storage.data(), std::min(bytes, static_cast<size_t>(storage.nbytes())));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(data));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  m.def("default_generator", [] { return default_generator(); });
  m.def("take_waits", [] {
    std::lock_guard<std::mutex> lock(waits_mutex);
    return std::exchange(waits, {});
  });
}
