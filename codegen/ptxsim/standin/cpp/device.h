// Facts about the device that runtime and driver both tell.
#pragma once

namespace standin {

constexpr const char* kDeviceName = "Stand-in GPU";

int attribute(int number);

}  // namespace standin
