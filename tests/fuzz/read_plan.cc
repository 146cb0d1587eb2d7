// A manifest and its plan, each of any bytes, with a zero byte between them: the plan is judged against the manifest.
#include <treadle/plan.h>

#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view both = bytes(data, size);
  const size_t cut = both.find('\0');
  if (cut == both.npos) return 0;
  refusable([&] {
    const treadle::Manifest manifest = treadle::Manifest::from_json(both.substr(0, cut));
    const treadle::json::Value value = treadle::json::parse(both.substr(cut + 1), treadle::plan::kFile);
    for (const treadle::Entry& entry : manifest.entries) {
      const auto fields = treadle::json::Node(value, "", treadle::plan::kFile).fields({"schema", "entries", "reuse"});
      treadle::plan::Check(entry, manifest).run(fields[1].field(entry.name));
    }
  });
  return 0;
}
