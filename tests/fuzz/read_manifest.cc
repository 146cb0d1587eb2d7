// manifest.json of any bytes. Whatever is accepted must also be usable: its sizes evaluate, or say why not.
#include <treadle/manifest.h>

#include "target.h"

static void evaluate(const std::vector<treadle::SizeExpr>& sizes, const treadle::Sizes& dims) {
  for (const treadle::SizeExpr& size : sizes) refusable([&] { size.evaluate(dims); });
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  refusable([&] {
    const treadle::Manifest manifest = treadle::Manifest::from_json(bytes(data, size));
    for (const bool top : {false, true}) {
      treadle::Sizes dims;
      for (const auto& [name, dim] : manifest.dims) dims[name] = top ? dim.hi : dim.lo;
      for (const auto& [name, dim] : manifest.dims) evaluate(dim.one_of, dims);
      for (const treadle::Entry& entry : manifest.entries)
        for (const auto* tensors : {&entry.inputs, &entry.outputs})
          for (const treadle::TensorSpec& tensor : *tensors) evaluate(tensor.shape, dims);
    }
    for (const treadle::TensorSpec& weight : manifest.weights) evaluate(weight.shape, {});
  });
  return 0;
}
