#include "kernels.h"

KERNELS(single, Single)

extern "C" int64_t stn_lanes() { return LANES; }
