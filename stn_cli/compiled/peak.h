// As many multiplications and additions as a processor can do: in registers alone.

#pragma once
#include "stage.h"

namespace {

constexpr int CHAINS = REGISTERS == 32 ? 24 : 12;  // enough for every unit to have one that does not wait

// One step of a chain; what it works on changes, so that no product can be made beforehand.
INLINE void chain(Single, Lanes &sum, Lanes by) { sum = sum * by + by; }
#if defined(__AVX512BF16__)
INLINE void chain(Double, Lanes &sum, Lanes by) { Double::add(sum, (Factors)by, (Factors)by); }
#endif

// Returns how many operations were done.
template <class P> int64_t peak(int64_t rounds, int64_t threads, float *result) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t thread = 0; thread < threads; thread++) {
        Lanes sums[CHAINS], by = Lanes{} + 0.5f;
        for (int k = 0; k < CHAINS; k++) sums[k] = Lanes{} + (float)k;  // or one would be computed for all
        for (int64_t round = 0; round < rounds; round++)
            UNROLL for (int k = 0; k < CHAINS; k++) chain(P(), sums[k], by);
        for (int k = 1; k < CHAINS; k++) sums[0] += sums[k];
        result[thread] = sums[0][0];
    }
    return 2 * P::TOGETHER * LANES * CHAINS * rounds * threads;
}

}  // namespace
