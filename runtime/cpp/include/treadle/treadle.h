// Bundles in C++17, without Python and without TVM:
//
//   treadle::Session session(treadle::Bundle("cgspn.treadle"));
//   treadle::Outputs y = session.run({{"image", treadle::Tensor(pixels, {1, 3, 224, 448})}});
//   const float* pooled = y.at("pooled").as<float>();
//
// Everything that can go wrong is a treadle::Error. docs/embedding.md is the guide.
#pragma once

#include "bundle.h"
#include "error.h"
#include "session.h"
#include "tensor.h"
