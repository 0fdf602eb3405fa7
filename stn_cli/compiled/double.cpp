// Where the processor multiplies numbers in bf16, two at a time.

#include "kernels.h"

#if defined(__AVX512BF16__)
KERNELS(double, Double)
#endif
